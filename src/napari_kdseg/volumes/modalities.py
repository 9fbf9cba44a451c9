"""What channels show: one word for many spellings, and the machine each comes from."""

_ALIKE = {
    **dict.fromkeys(("t1w", "t1n"), "t1"),
    **dict.fromkeys(("t1c", "t1gd"), "t1ce"),
    "t2w": "t2",
    "t2f": "flair",  # as BraTS has it since 2023
    "mri": "mr",
    "pt": "pet",  # as DICOM has it
}
_MACHINES = {
    "CT": ("ct", "cta", "cbct", "micro-ct"),
    "MR": ("mr", "t1", "t1ce", "t2", "flair", "pd", "adc", "dwi", "swi", "dce", "mra"),
    "PET": ("pet", "suv"),
}
_MACHINE_OF = {word: machine for machine, words in _MACHINES.items() for word in words}


def word_of(channel: str) -> str:
    """Give one word for what a channel shows: ``t1ce`` for ``T1Gd``, ``T1c`` ..."""
    word = channel.strip().casefold()
    return _ALIKE.get(word, word)


def machine_of(channel: str) -> str:
    """Name the machine of a channel, ``CT``, ``MR`` or ``PET``; empty: unknown."""
    return _MACHINE_OF.get(word_of(channel), "")


def is_machine(channel: str) -> bool:
    """Whether a name says which machine a channel comes from, and no more."""
    return word_of(channel).upper() in _MACHINES


def contradict(one: str, other: str) -> bool:
    """Whether two names cannot be meant for one channel; what is unknown can be any."""
    if word_of(one) == word_of(other) or not machine_of(one) or not machine_of(other):
        return False
    alone = is_machine(one) or is_machine(other)
    return machine_of(one) != machine_of(other) or not alone
