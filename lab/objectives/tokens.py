"""Masks from lengths, the shift by one, masked statistics, and the weights that turn per-token losses into one number.

Rows are right-padded. A mask is boolean and True where a token counts. Whatever lies outside it, NaN included, never
reaches a result or a gradient: masking is `torch.where`, because NaN × 0 is NaN.

Half precision is widened to float32; float64 stays float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def real(x: Tensor) -> Tensor:
    """x as floating point of at least 32 bits: float64 is kept, everything else becomes float32."""
    return x if x.dtype is torch.float64 else x.float()


def check_shapes(**tensors: Tensor | None) -> None:
    """Refuses tensors of different shapes (None is skipped).

    Raises:
        ValueError: names the first tensor that differs from the first one given.
    """
    (first, head), *rest = ((name, x) for name, x in tensors.items() if x is not None)
    for name, x in rest:
        if x.shape != head.shape:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)} but {first} has {tuple(head.shape)}; give both the same shape."
            )


def check_lengths(lengths: Tensor, rows: int, tokens: int) -> None:
    """Refuses lengths that are not one whole number in [0, T] for each of the B rows.

    Raises:
        ValueError: wrong shape, not an integer type, or a length outside [0, T].
    """
    if lengths.shape != (rows,):
        raise ValueError(f"lengths has shape {tuple(lengths.shape)}; give one length for each of the {rows} rows.")
    if lengths.is_floating_point() or lengths.dtype is torch.bool:
        raise ValueError(f"lengths has dtype {lengths.dtype}; give whole numbers of tokens.")
    if rows:
        low, high = (int(edge) for edge in lengths.aminmax())
        if low < 0 or high > tokens:
            raise ValueError(f"lengths run from {low} to {high}; they must lie in [0, {tokens}].")


def length_mask(lengths: Tensor, T: int) -> Tensor:
    """The first `length` positions of each row: mask[b, t] = t < lengths[b].

    Args:
        lengths: (B,) whole numbers in [0, T].
        T: width of the rows, in tokens.

    Returns:
        (B, T) bool, True where a token counts. An empty row is all False.

    Raises:
        ValueError: as in `check_lengths`.
    """
    check_lengths(lengths, lengths.numel(), T)
    return torch.arange(T, device=lengths.device) < lengths[:, None]


def fill(x: Tensor, mask: Tensor | None) -> Tensor:
    """x in at least float32 with 0 wherever the mask is False; without a mask, all of x counts.

    Objectives fill their *inputs*, not their outputs: only then is the gradient at a padded NaN an exact 0.

    Raises:
        ValueError: a mask that is not boolean, or not of the shape of x.
    """
    if mask is None:
        return real(x)
    if mask.dtype is not torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}; give booleans, True where a token counts.")
    check_shapes(x=x, mask=mask)
    x = real(x)
    return torch.where(mask, x, torch.zeros_like(x))


class Shifted(NamedTuple):
    """Next-token prediction. inputs, targets: (B, T−1) token ids; mask: (B, T−1), True where the target counts."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor


def shift(tokens: Tensor, mask: Tensor) -> Shifted:
    """The shift by one: the model reads token t and is asked for token t+1.

    A position counts when the token it *predicts* counts, so the last prompt token predicts the first token of the
    completion, and the end token is learnt but never read.

    Args:
        tokens: (B, T) token ids.
        mask: (B, T) bool, True on the tokens to be learnt.

    Raises:
        ValueError: different shapes.
    """
    check_shapes(tokens=tokens, mask=mask)
    return Shifted(tokens[:, :-1], tokens[:, 1:], mask[:, 1:])


def at_last(x: Tensor, lengths: Tensor) -> Tensor:
    """x at the last real token of each row; 0 for an empty row.

    Args:
        x: (B, T) or (B, T, H).
        lengths: (B,) in [0, T].

    Returns:
        (B,) or (B, H).

    Raises:
        ValueError: as in `check_lengths`.
    """
    check_lengths(lengths, x.shape[0], x.shape[1])
    x = real(x)
    nothing = x.new_zeros(x.shape[0], 1, *x.shape[2:])
    index = lengths.long().view(-1, *[1] * (x.dim() - 1)).expand_as(nothing)
    return torch.cat([nothing, x], dim=1).gather(1, index).squeeze(1)  # column 0 answers for empty rows


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Σ x over the counted positions: of everything (a scalar), or along `dim`.

    Args:
        x, mask: same shape, usually (B, T).

    Raises:
        ValueError: different shapes, or a mask that is not boolean.
    """
    return fill(x, mask).sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Σ x / n over the n counted positions; 0 where nothing counts. Shapes and errors as in `masked_sum`."""
    return masked_sum(x, mask, dim) / mask.sum(dim).clamp(min=1)


def masked_var(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Population variance Σ (x − mean)² / n over the n counted positions; 0 where nothing counts.

    Shapes and errors as in `masked_sum`. The divisor is n, not n − 1: one counted position has variance 0.
    """
    mean = masked_mean(x, mask, dim)
    centred = fill(x, mask) - (mean if dim is None else mean.unsqueeze(dim))
    return masked_mean(centred**2, mask, dim)


FLAT = 1e-6
"""A spread up to this share of (1 + |mean|) is rounding, not signal: float32 keeps about seven digits."""


def is_flat(mean: Tensor, sigma: Tensor) -> Tensor:
    """Whether numbers of this mean and standard deviation are equal but for rounding: σ ≤ 1e-6 (1 + |mean|)."""
    return sigma <= FLAT * (1 + mean.abs())


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Mean 0 and standard deviation 1 over the counted positions: (x − mean) / σ, with the population σ.

    Whiten once over all completions of a step, before splitting them: parts whitened on their own lose the
    difference between them. The result carries no gradient.

    Limits: equal values become exactly 0, not amplified rounding; so does a single counted position.

    Args:
        x: (B, T).
        mask: (B, T) bool.
        shift_mean: False adds the mean back, (x − mean) / σ + mean, the form used for rewards.

    Returns:
        (B, T), 0 outside the mask.

    Source:
        Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", `whiten` of the published code
        (population variance there as well).

    Raises:
        ValueError: different shapes, or a mask that is not boolean.
    """
    x = real(x.detach())
    mean, sigma = masked_mean(x, mask), masked_var(x, mask).sqrt()
    scaled = torch.where(is_flat(mean, sigma), torch.zeros_like(x), (x - mean) / sigma)
    return fill(scaled if shift_mean else scaled + mean, mask)


def _token_mean(mask: Tensor, rows: Tensor, longest: int | None) -> Tensor:
    return mask / mask.sum().clamp(min=1)


def _sequence_mean(mask: Tensor, rows: Tensor, longest: int | None) -> Tensor:
    return mask / mask.sum(1, keepdim=True).clamp(min=1) / rows.sum().clamp(min=1)


def _sequence_sum(mask: Tensor, rows: Tensor, longest: int | None) -> Tensor:
    return mask / rows.sum().clamp(min=1)


def _constant(mask: Tensor, rows: Tensor, longest: int | None) -> Tensor:
    if longest is None or longest < 1:
        raise ValueError("The constant reduction divides by the longest completion allowed; give longest in tokens.")
    return mask / (rows.sum().clamp(min=1) * longest)


REDUCTIONS: dict[str, Callable[[Tensor, Tensor, int | None], Tensor]] = {
    "token_mean": _token_mean,
    "sequence_mean": _sequence_mean,
    "sequence_sum": _sequence_sum,
    "constant": _constant,
}


def token_weights(mask: Tensor, reduction: str, rows: Tensor | None = None, longest: int | None = None) -> Tensor:
    """How much each token's loss counts in one optimizer update: loss = Σ w · L.

    ==============  ===========================  =====================================================
    token_mean      Σ m L / Σ m                  every token counts the same (SFT, PPO, DAPO)
    sequence_mean   mean_B (Σ_t m L / length)    every completion counts the same (GRPO, GSPO)
    sequence_sum    mean_B (Σ_t m L)             log-likelihood of whole completions (REINFORCE, RLOO)
    constant        Σ m L / (B · longest)        no bias from lengths (Dr. GRPO)
    ==============  ===========================  =====================================================

    Make the weights from the mask of the *whole* update and cut them together with the rows: however the update is
    split into passes, the parts add up to the same loss and the same gradient.

    Args:
        mask: (B, T) bool of the whole update.
        reduction: a key of `REDUCTIONS`.
        rows: (B,) bool, rows that take part; the others leave numerator and divisor alike. A row that takes part
            but is empty contributes 0 and counts in B. Default: all.
        longest: tokens of the longest completion allowed; only for "constant".

    Returns:
        (B, T) float32, 0 outside the mask; all 0 when nothing counts.

    Raises:
        ValueError: unknown reduction, wrong shapes, or "constant" without `longest`.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"There is no reduction {reduction!r}; choose one of {', '.join(REDUCTIONS)}.")
    if rows is None:
        rows = torch.ones(mask.shape[0], dtype=torch.bool, device=mask.device)
    if rows.shape != mask.shape[:1]:
        raise ValueError(f"rows has shape {tuple(rows.shape)}; give one boolean for each of the {mask.shape[0]} rows.")
    return REDUCTIONS[reduction](mask & rows[:, None], rows, longest)


def weighted_sum(losses: Tensor, weights: Tensor) -> Tensor:
    """Σ w · L over the positions of non-zero weight: the loss of an update, or of the part of it given here.

    Args:
        losses, weights: (B, T), or (B,) for losses per pair.

    Returns:
        A scalar; 0 (with zero gradient) when no weight is non-zero.

    Raises:
        ValueError: different shapes.
    """
    check_shapes(losses=losses, weights=weights)
    counted = weights != 0
    return (fill(losses, counted) * weights).sum()
