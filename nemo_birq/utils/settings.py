"""Settings with declared ranges: pydantic types, and one-line errors for values out of range."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError

T = TypeVar("T")

Whole = Annotated[int, Strict()]
"""A whole number; booleans and text that looks like a number are refused."""
Real = Annotated[float, Strict(), AllowInfNan(False)]
"""A finite number."""
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Name = Annotated[Text, Field(min_length=1)]
"""Text that is not empty."""

Count = Annotated[Whole, Field(ge=0, le=10**9)]
"""A number of items or steps, at least 0."""
Size = Annotated[Whole, Field(ge=1, le=10**9)]
"""A number of items, at least 1."""
Positive = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Dropout = Annotated[Real, Field(ge=0, lt=1)]
Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]
"""A number that PyTorch, NumPy and Lightning accept as a seed."""

MISSING = "???"
"""Hydra's mark for a mandatory value that is not set."""


class Node(BaseModel):
    """A node of a configuration, which may hold keys that have no field here."""

    model_config = ConfigDict(extra="allow")


def read(kind: type[T], values: object, where: str) -> T:
    """Validates a node of a configuration.

    Args:
        kind: dataclass or ``Node`` whose annotations give types and ranges; ``allowed`` in a schema replaces the generated
            description of a range.
        values: plain dictionary of the node.
        where: key of the node, for the message.

    Raises:
        ValueError: a value has the wrong type or is out of range; the message names key, value and range of the first one.
    """
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        location = error.errors(include_url=False)[0]["loc"]
        raise ValueError(_message(_schema(kind), location, values, where)) from None


def refuse(key: str, value: object, allowed: str) -> NoReturn:
    """Raises the ValueError for a value that is not allowed.

    Args:
        key: full key, such as ``model.birq.quantizer.num_codes``.
        value: value of the key.
        allowed: allowed values, in words that complete "it must be ...".
    """
    raise ValueError(f"{key}={shown(value)} is not allowed: it must be {allowed}")


def choose(key: str, value: str, known: Iterable[str]) -> None:
    """Checks that a name is known.

    Raises:
        ValueError: the name is unknown; the message names the nearest one and all known ones.
    """
    names = sorted(known)
    if value not in names:
        raise ValueError(unknown_name(key, value, names))


def unknown_name(key: str, value: str, known: Iterable[str]) -> str:
    """Returns the message for an unknown name, with the nearest known name and all known names."""
    names = list(known)
    near = get_close_matches(value.lower(), [name.lower() for name in names], n=1, cutoff=0.5)
    hint = "".join(f"did you mean {name}? " for name in names if name.lower() in near)
    return f"{key}={shown(value)} does not exist: {hint}Known are {', '.join(names)}"


def shown(value: object) -> str:
    """Formats a value as in an override of Hydra; text that could be read as another type is quoted."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value) if _looks_like_another_type(value) else value
    return str(value)


def _looks_like_another_type(text: str) -> bool:
    if text.strip() != text or not text or text.lower() in ("null", "true", "false"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


@cache
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


@cache
def _schema(kind: type) -> dict[str, Any]:
    return _adapter(kind).json_schema()


def _message(root: Mapping[str, Any], location: tuple[int | str, ...], values: object, where: str) -> str:
    """Returns the message for the described key at which an error is, with its allowed values."""
    definitions, schema, key, value = root.get("$defs", {}), root, where, values
    for part in location:
        node = _node(schema, definitions)
        described = node.get("properties", {}).get(part, node.get("additionalProperties"))
        if not isinstance(described, Mapping) or not isinstance(value, Mapping) or part not in value:
            break
        schema, key, value = described, f"{key}.{part}" if key else str(part), value[part]
    allowed = _allowed(schema, definitions)
    if value == MISSING:
        return f"{key} is not set: it must be {allowed}"
    hint = f"; {schema['description']}" if "description" in schema and schema is not root else ""
    return f"{key}={shown(value)} is not allowed: it must be {allowed}{hint}"


def _node(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Resolves references and optional nodes."""
    if "$ref" in schema:
        return _node(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for choice in schema.get("anyOf", ()):
        if "$ref" in choice or choice.get("type") == "object":
            return _node(choice, definitions)
    return schema


def _allowed(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Describes a JSON schema in words that complete "it must be ..."."""
    if "allowed" in schema:
        return schema["allowed"]
    if "$ref" in schema:
        return _allowed(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(_allowed(choice, definitions) for choice in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return shown(schema["const"])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return _range({"integer": "a whole number", "number": "a number"}[kind], schema)
    if kind == "array":
        return _list(schema, definitions)
    texts = {"boolean": "true or false", "null": "null", "object": "a group of keys"}
    return texts.get(kind, "text that is not empty" if schema.get("minLength") else "text")


def _range(name: str, schema: Mapping[str, Any]) -> str:
    low, high = (schema.get(key, schema.get(f"exclusive{key.title()}")) for key in ("minimum", "maximum"))
    if low is None and high is None:
        return name
    if high is None:
        return f"{name} of at least {low:g}" if "minimum" in schema else f"{name} above {low:g}"
    if low is None:
        return f"{name} of at most {_number(high)}" if "maximum" in schema else f"{name} below {_number(high)}"
    if schema.get("type") == "integer":
        return f"{name} from {_number(low)} to {_number(high)}"
    opening, closing = "[" if "minimum" in schema else "(", "]" if "maximum" in schema else ")"
    return f"{name} in {opening}{_number(low)}, {_number(high)}{closing}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _list(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    least, most = schema.get("minItems"), schema.get("maxItems")
    length = f" of at least {least}" if least else ""
    if least and most:
        length = f" of {least}" if least == most else f" of {least} to {most}"
    inside = _allowed(schema["items"], definitions) if schema.get("items") else ""
    return f"a list{length}, each {inside}" if inside else f"a list{length}"
