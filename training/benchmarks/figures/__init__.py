"""The figures that ``make bench`` measures: a module each, with a function ``measure``.

A new one is a module with ``measure(quick) -> list[Row]`` and a line here.
"""

FIGURES = {
    "memory": "figures.memory",
    "length": "figures.length",
    "speed": "figures.speed",
    "export": "figures.export",
    "measures": "figures.measures",
    "bulk": "figures.bulk",
    "processes": "figures.processes",
    "beside": "figures.beside",
}
"""Name on the command line -> module."""
