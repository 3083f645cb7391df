"""The model card: README.md in the format of the Hugging Face hub, written only from the configuration of a model."""

import json
import shlex
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader
from nemo.core import ModelPT
from omegaconf import OmegaConf

from nemo_birq.monitoring.metrics import METRICS, MIN_ENTROPY, RECORDED, TASKS
from nemo_birq.utils.markdown import escaped, fence_for
from nemo_birq.utils.terminal import printable

TEMPLATES = Environment(loader=PackageLoader("nemo_birq.checkpoint", "."))
TAGS = ["NeMo", "pytorch", "speech", "audio", "self-supervised", "BiRQ"]
# Keys that the configuration of a recognizer must repeat, so that the encoder computes the same outputs.
ARCHITECTURE = {
    "preprocessor": ("normalize", "window_size", "window_stride", "window", "features", "n_fft"),
    "encoder": (
        "n_layers", "d_model", "n_heads", "ff_expansion_factor", "subsampling", "subsampling_factor",
        "subsampling_conv_channels", "conv_kernel_size", "conv_norm_type", "self_attention_model", "att_context_size",
        "untie_biases", "xscaling", "causal_downsampling", "att_context_style", "conv_context_size",
    ),
}  # fmt: skip
MEASURES = {name.removeprefix("anchor_"): METRICS[name].unit for name in RECORDED if name.startswith("anchor_")}
"""Recorded metrics of a task and their units."""
UNKNOWN = "unknown"  # entry of the hub's list for an unknown licence


def build_card(
    model: ModelPT, name: str, repo_id: str | None = None, library: Literal["nemo", "transformers"] = "nemo"
) -> ModelCard:
    """Builds the card of a ``BiRQModel``, or of the stock model that ``strip`` makes of it.

    The training comes from ``model.cfg.pretraining`` (see ``record_training``). Licence, language and data sets on the hub
    come from ``model.cfg.card``, because only their author knows them.

    Args:
        model: model with ``preprocessor`` and ``encoder``.
        name: name of the model; its file is ``<name>.nemo``, its folder for transformers ``<name>``.
        repo_id: ``user/name`` on the hub, if known.
        library: library that opens the described files.
    """
    cfg = OmegaConf.to_container(model.cfg, resolve=True)
    card, record, encoder = cfg.get("card") or {}, cfg.get("pretraining") or {}, cfg["encoder"]
    settings = record.get("settings") or {"birq": cfg.get("birq") or {}}
    settings["birq"].get("quantizer", {}).pop("tensors", None)  # a file name inside the .nemo
    settings_yaml = printable(OmegaConf.to_yaml(settings).strip())
    overrides = [
        _override(f"model.{node}.{key}", cfg[node][key])
        for node, keys in ARCHITECTURE.items()
        for key in keys
        if key in cfg[node]
    ]
    data = ModelCardData(
        model_name=name,
        library_name=library,
        license=card.get("license") or UNKNOWN,
        language=card.get("language"),
        datasets=card.get("datasets"),
        pipeline_tag="feature-extraction",
        tags=TAGS if library == "nemo" else TAGS[1:],
        eval_results=_results(record) or None,
    )
    content = TEMPLATES.get_template("card.md.jinja").render(
        card_data=data.to_yaml(),
        library=library,
        name=escaped(name),
        folder=json.dumps(name),
        file=json.dumps(f"{name}.nemo"),
        init_from=_override("+init_from_nemo_model", f"{name}.nemo"),
        repo_id=json.dumps(repo_id) if repo_id else None,
        license=escaped(card["license"]) if card.get("license") else None,
        record=_shown(record) if "steps" in record else None,
        trained_layers=record.get("layers", encoder["n_layers"]),
        settings_yaml=settings_yaml,
        fence=fence_for(settings_yaml, *overrides),
        is_best_rq=(settings["birq"].get("loss") or {}).get("enhanced_weight") == 0,
        is_relabelled=bool((settings["birq"].get("relabelling") or {}).get("checksum")),
        tasks=TASKS,
        measures=MEASURES,
        least_entropy=MIN_ENTROPY,
        encoder=encoder,
        overrides=overrides,
        millions=sum(parameter.numel() for parameter in model.encoder.parameters()) / 1e6,
        sample_rate=cfg["preprocessor"]["sample_rate"],
        mel_bands=cfg["preprocessor"]["features"],
        frame_ms=round(1000 * cfg["preprocessor"]["window_stride"] * encoder["subsampling_factor"]),
        bare="birq" not in cfg,
    )
    return ModelCard(content)


def _override(key: str, value: Any) -> str:
    """Returns an argument for Hydra, quoted for a shell."""
    if isinstance(value, list):
        return shlex.quote(f"{key}={value}".replace(" ", ""))
    value = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    return shlex.quote(printable(f"{key}={value}"))


def _shown(node: Any) -> Any:
    """Escapes the texts of a training record for Markdown, because another author may have written them."""
    if isinstance(node, dict):
        return {escaped(str(key)): _shown(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_shown(value) for value in node]
    return escaped(node) if isinstance(node, str) else node


def _results(record: dict[str, Any]) -> list[EvalResult]:
    """Returns the accuracies on the first validation set, in the format of the hub."""
    health, sets = (record.get("health") or {}).get("validation") or {}, (record.get("data") or {}).get("validation") or []
    if not sets:
        return []
    return [
        EvalResult(
            task_type="feature-extraction",
            task_name="prediction of masked labels",
            dataset_type="unlabelled-speech",
            dataset_name=sets[0]["name"],
            metric_type="accuracy",
            metric_name=f"accuracy at masked frames, {task} labels",
            metric_value=round(health[f"{task}_accuracy"], 4),
        )
        for task in TASKS
        if f"{task}_accuracy" in health
    ]
