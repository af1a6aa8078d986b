"""Loading the config of a run: a file of configs/, its arguments, and any field by its name."""

import argparse
import contextlib
import dataclasses
import inspect
import json
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.numbers import boolean
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.train.config import Stage, TrainConfig

_ARGUMENTS = (bool, int, float, str)


def load_config(path: Path, settings: Sequence[str]) -> TrainConfig:
    """The config that a file's `get_config` returns, with settings of the command line.

    Args:
        path: the config file.
        settings: NAME=VALUE. A name is an argument of `get_config`, whose value is read as the
            type of its default, or a field of the config: `seed`, `model.fm_decoder_dim`,
            `stages.dialog.learning_rate`. Fields are set after the file has run.

    Raises:
        UserError: the file cannot be run, or a setting names nothing or has an impossible value.
    """
    make = function_of(path, "get_config", "a TrainConfig")
    known = inspect.signature(make).parameters
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    arguments, overrides = {}, []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if equals and name in known:
            arguments[name] = _argument(setting, name, text, known[name].default)
        elif equals and name.partition(".")[0] in fields:
            overrides.append((setting, name, text))
        else:
            raise UserError(
                f"--set {setting}: {path} takes {', '.join(f'{n}=...' for n in known) or 'none'}; "
                "fields of the config are named in full, such as stages.NAME.learning_rate=..."
            )
    with config_errors(path):
        config = make(**arguments)
    if not isinstance(config, TrainConfig):
        raise UserError(f"get_config of {path} returns no TrainConfig; make it return one.")
    for setting, name, text in overrides:
        config = _with_field(config, name.split("."), text, setting)
    return config


def function_of(path: Path, name: str, returned: str) -> Callable[..., Any]:
    """Runs a file of configs, and finds one of its functions.

    Args:
        path: the file; it may import its neighbours.
        name: the function's.
        returned: what it should return, for the message where there is none.

    Raises:
        UserError: the file does not exist, fails, or has no such function.
    """
    if not path.is_file():
        raise UserError(f"the config {path} does not exist; give a file such as configs/tiny.py.")
    sys.path.insert(0, str(path.resolve().parent))
    try:
        with config_errors(path):
            found = runpy.run_path(str(path)).get(name)
    finally:
        sys.path.pop(0)
    if found is None:
        raise UserError(f"{path} has no {name}; define one that returns {returned}.")
    return found


@contextlib.contextmanager
def config_errors(path: Path) -> Iterator[None]:
    """Names a config, which is code and can fail in any way, where that fails."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} fails ({type(error).__name__}: {error}).") from None


def _argument(setting: str, name: str, text: str, default: object) -> bool | int | float | str:
    """The value of one of `get_config`'s arguments, of the type of its default."""
    kind = type(default) if isinstance(default, _ARGUMENTS) else str
    try:
        return boolean(text) if kind is bool else kind(text)
    except (ValueError, argparse.ArgumentTypeError):
        raise UserError(f"--set {setting}: {name} takes a {kind.__name__}.") from None


def _with_field(node: Any, names: Sequence[str], text: str, setting: str) -> Any:
    """A config, or a part of one, with one of its fields replaced, however deep it lies."""
    name, *rest = names
    if isinstance(node, tuple):  # stages by name, sources by number
        keys = [part.name if isinstance(part, Stage) else str(i) for i, part in enumerate(node)]
        if name not in keys:
            raise UserError(f"--set {setting}: {name} is none of {', '.join(keys)}.")
        at = keys.index(name)
        if not rest:
            raise UserError(f"--set {setting}: {name} has fields; name one of them.")
        return (*node[:at], _with_field(node[at], rest, text, setting), *node[at + 1 :])
    names_here = [field.name for field in dataclasses.fields(node)]
    if name not in names_here:
        raise UserError(f"--set {setting}: {name} is none of {', '.join(names_here)}.")
    value, hint = getattr(node, name), get_type_hints(type(node))[name]
    if rest:
        if not (dataclasses.is_dataclass(value) or isinstance(value, tuple)):
            raise UserError(f"--set {setting}: {name} is {value!r} here, which has no fields.")
        new = _with_field(value, rest, text, setting)
    else:
        new = _read(text, hint, name, setting)
    return dataclasses.replace(node, **{name: new})


def _read(text: str, hint: Any, name: str, setting: str) -> Any:
    """A field's value, by its annotation; whether it is possible the config itself checks."""
    kinds = [part for one in get_args(hint) or (hint,) for part in get_args(one) or (one,)]
    if text == "none" and type(None) in kinds:
        return None
    choices = [one for one in kinds if isinstance(one, str)]
    if float not in kinds and any(map(dataclasses.is_dataclass, kinds)):
        raise UserError(f"--set {setting}: {name} has fields; name one of them.")
    if choices and text not in choices:
        raise UserError(f"--set {setting}: {text} is none of {', '.join(choices)}.")
    try:
        if any(get_origin(one) is tuple for one in (hint, *get_args(hint))):  # [1, 2, 1]
            return tuple(_listed(text))
        if bool in kinds:
            return boolean(text)
        if int in kinds and float not in kinds:
            return int(text)
        if PiecewiseLinear in kinds and text.startswith("["):  # [[step, value], ...]
            return PiecewiseLinear(tuple((float(at), float(v)) for at, v in _listed(text)))
        if float in kinds:
            return float(text)
        return text
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        raise UserError(
            f"--set {setting}: {text!r} cannot be read; give a number, true or false, a name, a "
            "list such as [1, 2], or [[step, value], ...] for what changes with the step."
        ) from None


def _listed(text: str) -> list[Any]:
    """A list of JSON.

    Raises:
        ValueError: the text is none.
    """
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError(text)
    return found
