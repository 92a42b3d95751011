"""What a scheme asks of quantization: a quantizer for each role of a tensor, one for weights, and what comes before."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar, cast

from qvit.dialects.semantics.integers import Rounding
from qvit.transforms.ptq.observers import Observer, Quantizer
from qvit.transforms.ptq.sites import Role
from qvit.transforms.ptq.weights import Fit, WeightQuantizer


@dataclass(frozen=True)
class Override:
    """Other settings for some tensors: `match` is a pattern of source node names, roles are those it is for (all if none)."""

    match: str
    roles: tuple[Role, ...] = ()
    weights: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def concerns(self, names: Iterable[str]) -> bool:
        return any(fnmatchcase(name, self.match) for name in names)


QuantizerT = TypeVar("QuantizerT", Quantizer, WeightQuantizer)


def _overridden(quantizer: QuantizerT, override: Override, names: Sequence[str]) -> QuantizerT:
    """BadOverrides where the settings do not go together with those that they leave as they are."""
    try:
        return replace(quantizer, **override.settings)
    except (ValueError, TypeError) as error:
        name = names[-1] if names else "a tensor without a name"
        raise BadOverrides(f"override of {override.match!r} at {name}: {error}") from None


@dataclass(frozen=True)
class Mixed:
    """Some layers have wider weights: the quantizer of these, and the most that all may cost.

    budget: multiply-accumulates times bits, over those of narrow weights everywhere.
    """

    wide: WeightQuantizer
    budget: float = 1.1

    def __post_init__(self) -> None:
        if not self.budget >= 1:
            raise ValueError(f"a budget of mixed precision must be at least 1, found {self.budget:g}")


@dataclass(frozen=True)
class Quantization:
    """The numbers of a scheme.

    roles: a quantizer for each role; a role without one stays as it is. smoothing: the exponent alpha by which ranges move
    from the outputs of layer normalisations into the weights behind them, 0 for none; smooth_to_powers: by powers of two.
    centre_keys: subtract from keys what is common to all tokens, which softmax does not see. rounding: of every quantizer.
    mixed: which layers have wider weights than `weights` is searched for on the samples. ends: the least bits of the
    weights and operands of layers that take the model's input or make its result, which few bits harm most. raw_scores: a
    softmax takes the sums of a product as they are, and scores have codes only where something else makes them. per_head:
    queries and keys, and values where probabilities have codes, get a scale for each head (Q-ViT), if a linear layer makes
    them and their codes are symmetric.
    """

    roles: Mapping[Role, Quantizer]
    weights: WeightQuantizer = field(default_factory=WeightQuantizer)
    smoothing: float = 0.0
    smooth_to_powers: bool = False
    centre_keys: bool = False
    rounding: Rounding = Rounding.HALF_EVEN
    mixed: Mixed | None = None
    ends: int = 0
    raw_scores: bool = False
    per_head: bool = False
    overrides: tuple[Override, ...] = ()

    def quantizer(self, role: Role, names: Sequence[str]) -> Quantizer | None:
        """For a tensor of that role, made by source nodes of these names; the last override that concerns it wins."""
        found = self.roles.get(role)
        for override in self.overrides:
            if not override.weights and (not override.roles or role in override.roles) and override.concerns(names):
                found = _overridden(found or Quantizer(), override, names)
        return found

    def weight_quantizer(self, names: Sequence[str]) -> WeightQuantizer:
        """For the weights of a layer with these names."""
        found = self.weights
        for override in self.overrides:
            if override.weights and override.concerns(names):
                found = _overridden(found, override, names)
        return found

    @property
    def needs_gram(self) -> bool:
        if self.mixed is not None or self.weights.needs_gram:
            return True
        return any(
            override.weights and replace(self.weights, **override.settings).needs_gram for override in self.overrides
        )


def all_roles(operand: Quantizer, wide: Quantizer, **others: Quantizer | None) -> dict[Role, Quantizer]:
    """`operand` for what products take, `wide` for the rest, `others` by the names of roles (None: none)."""
    products = (Role.PIXELS, Role.LINEAR, Role.HIDDEN, Role.ATTENTION, Role.PROBABILITIES)
    chosen = {role: operand if role in products else wide for role in Role} | {
        Role(name): quantizer for name, quantizer in others.items()
    }
    return {role: quantizer for role, quantizer in chosen.items() if quantizer is not None}


class BadOverrides(ValueError):
    """A file of overrides that does not say what it should; the message names the entry."""


def read_overrides(path: Path) -> tuple[Override, ...]:
    """Overrides from a TOML file: `[[override]]` tables with `match`, `roles` or `weights = true`, and settings.

    BadOverrides names the entry that is wrong.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOverrides(f"{path}: {error}") from error
    entries: Any = document.pop("override", [])
    if document or not isinstance(entries, list):
        raise BadOverrides(
            f"{path}: expected [[override]] tables alone, found {', '.join(document) or 'something else'}"
        )
    return tuple(_override(entry, f"{path}: override {i + 1}") for i, entry in enumerate(cast(list[Any], entries)))


def _override(entry: Any, where: str) -> Override:
    settings = dict(cast(dict[str, Any], entry)) if isinstance(entry, dict) else {}
    match, weights, names = settings.pop("match", None), settings.pop("weights", False), settings.pop("roles", [])
    if not isinstance(match, str):
        raise BadOverrides(f'{where}: expected match = "PATTERN" of source node names')
    if not isinstance(weights, bool):
        raise BadOverrides(f"{where}: weights must be true or false, found {weights!r}")
    if weights and names:
        raise BadOverrides(f"{where}: weights have no roles, found roles = {names}")
    try:
        roles = tuple(Role(name) for name in names)
    except (ValueError, TypeError):
        raise BadOverrides(f"{where}: roles is a list of {', '.join(Role)}; found {names}") from None
    kind = WeightQuantizer if weights else Quantizer
    known = {f.name for f in fields(kind)}
    if unknown := set(settings) - known:
        raise BadOverrides(f"{where}: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}")
    try:
        if "observer" in settings:
            settings["observer"] = Observer(settings["observer"])
        if "fit" in settings:
            settings["fit"] = Fit(settings["fit"])
        kind(**settings)
    except (ValueError, TypeError) as error:
        raise BadOverrides(f"{where}: {error}") from None
    return Override(match, roles, weights, settings)
