"""Tags of chat formats in strings: found whole, with what is told left between them."""

from __future__ import annotations

import pytest

from erecap.context.turn_tags import table, tag_spans, template_tags
from tests.context.small_tokenizers import byte_level

TOLD = "You see mug 3.\nIt is <red> [1], {a: 2}."
# What stands before and behind what the user tells.
FORMATS = {
    "ChatML": ("<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "Llama 2": (" </s><s>[INST] ", " [/INST]"),
    "Llama 3": ("<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
                "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
    "Llama 4": ("<|eot|><|header_start|>user<|header_end|>\n\n", "<|eot|><|header_start|>assistant<|header_end|>\n\n"),
    "Gemma": ("<end_of_turn>\n<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
    "one bar": ("<turn|>\n<|turn>user\n", "<turn|>\n<|turn>model\n"),
    "Mistral": ("</s>[INST]", "[/INST]"),
    "DeepSeek": ("<｜end▁of▁sentence｜><｜User｜>", "<｜Assistant｜>"),
    "Phi": ("<|end|>\n<|user|>\n", "<|end|>\n<|assistant|>\n"),
    "Zephyr": ("</s>\n<|user|>\n", "</s>\n<|assistant|>\n"),
    "Command-R": ("<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
                  "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
    "Granite": ("<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>",
                "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"),
    "gpt-oss": ("<|return|><|start|>user<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "EXAONE": ("[|endofturn|]\n[|user|]", "\n[|assistant|]"),
    "Kimi": ("<|im_end|><|im_user|>user<|im_middle|>", "<|im_end|><|im_assistant|>assistant<|im_middle|>"),
    "InternLM": ("<eoa>\n<|User|>:", "<eoh>\n<|Bot|>:"),
    "Alpaca": ("\n\n### Instruction:\n", "\n\n### Response:\n"),
    "Vicuna": ("</s>USER: ", " ASSISTANT:"),
    "Claude's old one": ("\n\nHuman: ", "\n\nAssistant:"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_told_stands_between_tags(name: str) -> None:
    before, after = FORMATS[name]
    text = before + TOLD + after
    spans = list(tag_spans(text, table()))
    assert len(spans) == 2
    assert text[spans[0][1] : spans[1][0]].strip() == TOLD and not text[spans[1][1] :].strip()
    assert not text[: spans[0][0]].strip()


def test_a_templates_own_tags() -> None:
    tokenizer = byte_level()
    assert template_tags(object()) is None
    theirs = tokenizer.chat_template
    try:
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '%%' + m['role'] + '%% ' + m['content'] + ' %%over%%\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '%%assistant%% ' }}{% endif %}"
        )
        tags = template_tags(tokenizer)
    finally:
        tokenizer.chat_template = theirs
    assert tags is not None
    text = f" %%over%%\n%%user%% {TOLD} %%over%%\n%%assistant%% "
    first, last = tag_spans(text, tags)
    assert text[first[1] : last[0]].strip() == TOLD
    assert not list(tag_spans(text, table()))
    # The common formats are known besides.
    assert len(list(tag_spans("<start_of_turn>user\nhi<end_of_turn>", tags))) == 2
