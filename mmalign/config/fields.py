"""Field types that say no where pydantic would quietly convert, and the base of every section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict

__all__ = [
    "Bool",
    "Count",
    "Decay",
    "Float",
    "Int",
    "NonNegative",
    "Positive",
    "PositiveCount",
    "Section",
    "Share",
]


def _no_bool(value: Any) -> Any:
    """YAML writes ``true`` easily where a number was meant, and pydantic would make it 1.0."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


Int = Annotated[int, Strict()]
"""A whole number; ``true`` and ``3.0`` are refused."""
Bool = Annotated[bool, Strict()]
"""``true`` or ``false``; 1 and "yes" are refused."""
Float = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
"""A finite number; the string ``1e-4`` (which is how YAML reads it) is converted."""
Count = Annotated[int, Strict(), Field(ge=0)]
"""A whole number from 0."""
PositiveCount = Annotated[int, Strict(), Field(ge=1)]
"""A whole number from 1."""
NonNegative = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, allow_inf_nan=False)]
"""A number from 0."""
Positive = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]
"""A number above 0."""
Share = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1)]
"""A number from 0 to 1."""
Decay = Literal["constant", "linear", "cosine"]
"""What a learning rate does after its rise: stay, or fall to a tenth."""


class Section(BaseModel):
    """A frozen section of the configuration; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_default=True,
    )
