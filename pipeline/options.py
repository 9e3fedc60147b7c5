"""Base class of all option models: params sections and the options of registered decoders."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A frozen, strictly typed set of options. Unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
