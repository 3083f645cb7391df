"""Fine-tunes a pretrained encoder into a speech recognizer, and scores it on test sets.

    python scripts/speech_to_text_finetune.py --config-name=ctc_char init_from_nemo_model=pretrained.nemo ...

The same as ``birq finetune``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.finetuning.command import finetune

if __name__ == "__main__":
    run_script(finetune, __file__)
