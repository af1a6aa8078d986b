"""The cost and memory of a compiled program, read from the text of its HLO."""

from zipvoice_jax.forecast.hlo.cost import (
    HOOK_SHARE,
    Collective,
    PartCost,
    ProgramCost,
    program_cost,
    report,
)
from zipvoice_jax.forecast.hlo.text import Program, parse

__all__ = [
    "HOOK_SHARE",
    "Collective",
    "PartCost",
    "Program",
    "ProgramCost",
    "parse",
    "program_cost",
    "report",
]
