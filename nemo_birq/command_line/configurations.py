"""The folder of the configurations in conf/, and their descriptions for the help of a command.

The help reads conf/*.yaml and nemo_birq/config.py as text, because importing NeMo takes ten seconds.
"""

import ast
from pathlib import Path

import yaml

PACKAGE = Path(__file__).resolve().parents[1]


def config_folder() -> Path:
    """Returns the folder of the configurations: nemo_birq/conf in an installed wheel, conf in a checkout.

    Raises:
        FileNotFoundError: neither folder has base.yaml.
    """
    folders = [PACKAGE / "conf", PACKAGE.parent / "conf"]
    for folder in folders:
        if (folder / "base.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"no configurations found: neither {folders[0]} nor {folders[1]} has base.yaml; reinstall nemo_birq"
    )


def summary(path: Path) -> str:
    """Returns the first sentence of the comment at the top of a configuration."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            comment.append(line.strip("# "))
    return " ".join(comment).partition(". ")[0].removesuffix(".")


def configurations(folder: Path) -> dict[str, str]:
    """Returns the summaries of the complete configurations in a folder, by name."""
    return {path.stem: summary(path) for path in sorted(folder.glob("*.yaml")) if "defaults" in _read(path)}


def presets(folder: Path) -> dict[str, str]:
    """Returns the summaries of the presets in the subfolders, by the override that selects one, such as ``+data=ami``."""
    defaults = [entry for path in folder.glob("*.yaml") for entry in _read(path).get("defaults", [])]
    replaced = {group for entry in defaults if isinstance(entry, dict) for group in entry}
    return {
        f"{'' if path.parent.name in replaced else '+'}{path.parent.name}={path.stem}": summary(path)
        for path in sorted(folder.glob("*/*.yaml"))
        if path.read_text(encoding="utf-8").startswith("# @package")
    }


def documented_keys(source: Path, name: str, prefix: str) -> list[str]:
    """Returns the fields of a dataclass as lines: a heading, then ``key=default`` with the docstring of each.

    Args:
        source: Python file with the dataclass and the dataclasses of its fields.
        name: name of the dataclass.
        prefix: prefix of the keys, such as ``model.birq``.
    """
    tree = ast.parse(source.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    lines, further = [f"{prefix}: {_on_one_line(ast.get_docstring(classes[name]))}"], []
    body = classes[name].body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign):
            continue
        key, kind = node.target.id, ast.unparse(node.annotation)
        if kind in classes:
            further += documented_keys(source, kind, f"{prefix}.{key}")
            continue
        is_documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        text = _on_one_line(following.value.value) if is_documented else ""
        lines.append(f"  {key}={_as_yaml(_default(node.value))}  {text}".rstrip())
    return lines + further


def birq_keys() -> list[str]:
    """Returns the documented keys of ``model.birq`` from nemo_birq/config.py."""
    return documented_keys(PACKAGE / "config.py", "BiRQConfig", "model.birq")


def _default(value: ast.expr) -> object:
    """Returns the default of a field, which is a literal or ``field(default_factory=list)``."""
    return [] if ast.unparse(value) == "field(default_factory=list)" else ast.literal_eval(value)


def _on_one_line(docstring: str | None) -> str:
    return " ".join((docstring or "").split()).replace("``", "")


def _read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _as_yaml(value: object) -> str:
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
