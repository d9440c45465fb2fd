"""What an export says about removed parts of blocks: in its card, and in the summary that a command prints."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.core.mask import Mask, unit_noun


def noun(mask: Mask) -> str:
    """What the units of a mask are called."""
    return f"{unit_noun(mask.unit)}s"


def removed(mask: Mask) -> str:
    """What a mask removes, as a part of a sentence: `the MLP of 2 of its 30 transformer blocks`."""
    gone, pieces = mask.gone, list[str]()
    single = [u for u in mask.dropped if u // 2 not in gone] if mask.unit == "sublayer" else []
    for name, count in (
        ("", len(gone)),
        ("the attention of ", sum(u % 2 == 0 for u in single)),
        ("the MLP of ", sum(u % 2 for u in single)),
    ):
        if count:
            others = ("other" if count == 1 else "others") if gone else f"of its {mask.n_blocks} blocks"
            pieces.append(
                f"{name}{count} {others if pieces else f'of its {mask.n_blocks} transformer blocks'}"
            )
    return pieces[0] if len(pieces) == 1 else f"{', '.join(pieces[:-1])} and {pieces[-1]}"


def numbers(mask: Mask) -> str:
    """Which units are missing, by number."""
    if mask.unit == "block":
        return f"Blocks removed, counted from 0: {', '.join(map(str, mask.dropped))}."
    return (
        f"Removed, with blocks counted from 0: {', '.join(mask.names())} (`a`: the attention of a block, `m`: its "
        "MLP, `b`: the whole block)."
    )


def rows(mask: Mask) -> str:
    """Rows of the card's table: how many units there are before and after."""
    if mask.unit == "block":
        return f"| blocks | {mask.n_blocks} | {len(mask.kept)} |\n"
    left = [sum(unit % 2 == kind for unit in mask.kept) for kind in (0, 1)]
    return (
        f"| blocks | {mask.n_blocks} | {mask.n_blocks - len(mask.gone)} |\n"
        f"| attentions in use | {mask.n_blocks} | {left[0]} |\n"
        f"| MLPs in use | {mask.n_blocks} | {left[1]} |\n"
    )


def repaired(names: Sequence[str], kept: str, trained: str | None = None) -> str:
    """What a repair has changed; `names` are sub-layers such as `m3`. `trained` says what was trained afterwards."""
    listed = ", ".join(f"`{name}`" for name in names)
    return (
        f"What comes before a removed run was adapted: the output of {listed} (`a`: the attention of a block, `m`: "
        "its MLP, counted from 0 in the original model) is multiplied by a linear map. It was fitted by least "
        "squares to the states of the original model after the run (ReplaceMe, arXiv 2505.02819), and is folded into "
        f"the weights. {trained or f'The other {kept} are unchanged and nothing was trained by gradients.'}"
    )


ZEROS = (
    "If a block lost both parts, it is cut out. If it lost one part, the last weights of this part are zeros, so the "
    "part adds exactly nothing. It still takes its room in the file and its time when the model runs, because no "
    "standard architecture has blocks without attention or without MLP. If this card gives a speed or a peak of "
    "memory, it was measured on a model in memory that really lacks these parts."
)
