"""The tiny model's folder without weights: a byte-level BPE tokenizer, chat template and configuration of Qwen2 type.

The tokenizer is trained on the tiny task's own text, which is the same at every call, so the folder is too.
Pre-tokenization is Qwen2's (single digits, words with the blank before them): transformers and vLLM rebuild it from the
model type alone.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GenerationConfig, Qwen2Config, Qwen2Tokenizer

from fastsvs.data.tiny.sets import dialogues

PAD, USER, ASSISTANT, END = SPECIAL = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = f"""\
{{%- for message in messages %}}
    {{%- if message.role == 'user' %}}{{{{ '{USER}' + message.content }}}}
    {{%- elif message.role == 'assistant' %}}{{{{ '{ASSISTANT}' + message.content + '{END}' }}}}
    {{%- else %}}{{{{ raise_exception('the tiny model knows the roles user and assistant only') }}}}
    {{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{ '{ASSISTANT}' }}}}{{%- endif %}}"""
VOCABULARY = 576
MAX_TOKENS = 512
_TRAINING_DIALOGUES = 20_000


def write_model_folder(folder: Path) -> None:
    """Write tokenizer, chat template, config.json and generation_config.json into `folder`."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_config(tokenizer).save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)


def build_tokenizer() -> Qwen2Tokenizer:
    """Train the tokenizer: nearly every word of the stories is one token, and any other text falls back to bytes."""
    words = Tokenizer(models.BPE())
    qwen2 = Qwen2Tokenizer().backend_tokenizer
    words.normalizer, words.pre_tokenizer, words.decoder = qwen2.normalizer, qwen2.pre_tokenizer, qwen2.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    examples = dialogues("tiny:sft", _TRAINING_DIALOGUES)
    words.train_from_iterator((message["content"] for example in examples for message in example.messages), trainer)
    return Qwen2Tokenizer(
        tokenizer_object=words,
        chat_template=CHAT_TEMPLATE,
        unk_token=None,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT],
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def build_config(tokenizer: Qwen2Tokenizer) -> Qwen2Config:
    """Return the configuration: 1.24 M parameters, 4.98 MB in fp32; heads, kv heads and vocabulary divide by two for
    tensor parallelism."""
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        initializer_range=0.06,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
