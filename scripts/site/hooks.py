"""Hooks of mkdocs: reference pages that are generated from the code, and links to files outside of docs/."""

import re
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from nemo_birq.cli import COMMANDS, main
from nemo_birq.command_line.configurations import birq_keys
from nemo_birq.monitoring.metrics import markdown_table

OUTSIDE = re.compile(r"\[([^\]\n]+)\]\((?:(?:\.\./)+([^)\s]+)|([^)\s:]+/))\)")
MODULES = {
    "Model": ["nemo_birq.model", "nemo_birq.loading"],
    "Labels": [
        "nemo_birq.labels.quantizer", "nemo_birq.labels.anchor", "nemo_birq.labels.enhanced",
        "nemo_birq.labels.normalization",
        "nemo_birq.labels.tracked_codebook", "nemo_birq.labels.fitting", "nemo_birq.labels.logit_scale",
    ],
    "Losses": ["nemo_birq.losses.bilevel", "nemo_birq.losses.fused_cross_entropy"],
    "Masking and layers": ["nemo_birq.modules.masking", "nemo_birq.modules.layer_pass"],
}  # fmt: skip
"""Modules of the API page, by heading."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the reference."""
    for name, text in {"commands": _commands(), "configuration": _keys(), "metrics": _metrics(), "api": _api()}.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Shows links to folders and to files outside of docs/, which the site lacks, as their path in the repository."""

    def shown(link: re.Match) -> str:
        text, path = link[1], link[2] or f"docs/{link[3]}"
        return text if path.rstrip("/").endswith(text.strip("`").rstrip("/")) else f"{text} (`{path}`)"

    return OUTSIDE.sub(shown, markdown)


def _commands() -> str:
    parts = ["# Commands", "Each command is a subcommand of `birq`. `birq COMMAND --help` prints these texts."]
    with click.Context(main, info_name="birq") as parent:
        for name in COMMANDS:
            command = main.get_command(parent, name)
            with click.Context(command, info_name=name, parent=parent, max_content_width=110) as context:
                parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
                for inner in getattr(command, "commands", {}):
                    below = command.get_command(context, inner)
                    with click.Context(below, info_name=inner, parent=context, max_content_width=110) as inner_context:
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
