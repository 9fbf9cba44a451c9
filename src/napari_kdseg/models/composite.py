"""Two models as one: a coarse one that finds the box, a fine one that segments it."""

from pydantic import ValidationError

from napari_kdseg.errors import ModelError
from napari_kdseg.models.card import CoarseToFine, ModelCard, in_brief


def composite_card(
    coarse: ModelCard, fine: ModelCard, settings: CoarseToFine, name: str = ""
) -> ModelCard:
    """Describe the composite of two models: as the fine one, but for its role.

    Raises
    ------
    ModelError
        When they take different channels, one is a composite itself, or the settings
        name a class that neither knows.
    """
    for part in (coarse, fine):
        if part.role == "composite":
            raise ModelError(
                f"{part.name} is a composite already; give its coarse and its "
                "fine model, or predict with it alone."
            )
    if coarse.channels != fine.channels:
        raise ModelError(
            f"{coarse.name} takes {', '.join(coarse.channels)} and "
            f"{fine.name} {', '.join(fine.channels)}; coarse and fine model "
            "look at the same scan. Take two that were trained on the same channels."
        )
    known = {*coarse.classes.names, *fine.classes.names}
    strangers = sorted(set(settings.keep_largest) - known)
    if strangers:
        raise ModelError(
            f"keep_largest names {strangers[0]!r}, which neither {coarse.name} "
            f"nor {fine.name} segments; they segment {', '.join(sorted(known))}."
        )
    values = fine.model_dump(mode="json") | {
        "name": name or f"{fine.name[:60]}-coarse-to-fine",
        "role": "composite",
        "coarse_to_fine": settings.model_dump(mode="json"),
        "description": f"{coarse.name} finds where to look, {fine.name} "
        "segments it (FLARE22's two passes, arXiv 2211.05942).",
    }
    if coarse.licence != fine.licence:
        values["licence"] = f"{coarse.licence} and {fine.licence}"
    try:
        return ModelCard.model_validate(values)
    except ValidationError as error:
        raise ModelError(f"The composite {name}: {in_brief(error)}.") from error


def check_composite(card: ModelCard, fine: ModelCard, where: str) -> None:
    """Refuse the card of a composite that is not described as its fine model is.

    Raises
    ------
    ModelError
        Naming what differs.
    """
    own, wanted = card.what_changes_labels(), fine.what_changes_labels()
    for key, value in wanted.items():
        if own[key] != value:
            raise ModelError(
                f"{where} has other {key} than its fine model; a composite "
                "is described as its fine model is. Make it anew from its parts."
            )
