"""Hooks of mkdocs: pages that are generated from code and notebooks, and links to files outside of docs/."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from nemo_birq.cli import COMMANDS, main
from nemo_birq.command_line.configurations import birq_keys
from nemo_birq.monitoring.metrics import markdown_table

OUTSIDE = re.compile(r"\[([^\]\n]+)\]\((?:(?:\.\./)+([^)\s]+)|([^)\s:]+/))\)")
COMMAND = re.compile(
    r'<div class="language-text highlight(?=">(?:<pre>|<span></span>|<code>|\s)*(?:\$ )?'
    r"(?:[A-Z]\w*=|'?\+?(?:model|trainer)\.|(?:birq|cd|export|for|git|hf|lhotse|make|mfa|pip|python|sbatch) ))"
)
"""Beginning of a block of commands or arguments in the HTML of a page; other blocks may be tables."""
MODULES = {
    "Model": ["nemo_birq.model", "nemo_birq.loading"],
    "Labels": [
        "nemo_birq.labels.quantizer", "nemo_birq.labels.anchor", "nemo_birq.labels.enhanced",
        "nemo_birq.labels.normalization", "nemo_birq.labels.tracked_codebook", "nemo_birq.labels.fitting",
        "nemo_birq.labels.logit_scale",
    ],
    "Losses": ["nemo_birq.losses.bilevel", "nemo_birq.losses.fused_cross_entropy"],
    "Masking and layers": ["nemo_birq.modules.masking", "nemo_birq.modules.layer_pass"],
}  # fmt: skip
"""Modules of the API page, by heading."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the reference, and a page for each notebook in place of the file."""
    for name, text in {"commands": _commands(), "configuration": _keys(), "metrics": _metrics(), "api": _api()}.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        text, pictures = _notebook(Path(file.abs_src_path))
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"{Path(file.src_uri).parent}/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Shows links to what the site lacks, folders and files outside of docs/, as their path in the repository.

    A link to a notebook becomes a link to its page.
    """

    def shown(link: re.Match) -> str:
        text, path = link[1], link[2] or f"docs/{link[3]}"
        return text if path.rstrip("/").endswith(text.strip("`").rstrip("/")) else f"{text} (`{path}`)"

    return OUTSIDE.sub(shown, markdown).replace(".ipynb)", ".md)")


def on_page_content(html: str, **_: Any) -> str:
    """Gives blocks of commands the class ``command``, whose long lines wrap (docs/site.css)."""
    return COMMAND.sub(lambda found: f"{found[0]} command", html)


def _notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Returns the text of a notebook with the outputs of its cells, and its pictures by their names."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", [])})
            if "image/png" in data:
                name = f"{path.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Output of the cell]({name})")
            else:
                parts.append("```text\n" + "".join(data["text/plain"]).rstrip() + "\n```")
    return "\n\n".join(parts), pictures


def _commands() -> str:
    parts = ["# Commands", "Each command is a subcommand of `birq`. `birq COMMAND --help` prints these texts."]
    with click.Context(main, info_name="birq") as parent:
        for name in COMMANDS:
            command = main.get_command(parent, name)
            with click.Context(command, info_name=name, parent=parent, max_content_width=100) as context:
                parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
                for inner in getattr(command, "commands", {}):
                    below = command.get_command(context, inner)
                    with click.Context(below, info_name=inner, parent=context, max_content_width=100) as inner_context:
                        parts.append(f"### {name} {inner}\n\n```text\n{below.get_help(inner_context)}\n```")
    return "\n\n".join(parts)


def _keys() -> str:
    """Returns a table for each node of ``model.birq``."""
    lines = ["# Keys of `model.birq`", "", "All other keys are those of NeMo, Lightning and Hydra."]
    for line in birq_keys():
        if line.startswith("model.birq"):
            node, _, meaning = line.partition(": ")
            lines += ["", f"## {node}", "", meaning, "", "| key | default | meaning |", "| --- | --- | --- |"]
        elif line.strip():
            key, _, meaning = line.strip().partition("  ")
            name, _, default = key.partition("=")
            lines.append(f"| `{name}` | `{default}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _metrics() -> str:
    return f"# Metrics\n\nThe names are those in TensorBoard, with `train_` or `val_` before them.\n\n{markdown_table()}"


def _api() -> str:
    parts = ["# API"]
    for heading, modules in MODULES.items():
        parts += [f"## {heading}", *(f"::: {module}" for module in modules)]
    return "\n\n".join(parts)
