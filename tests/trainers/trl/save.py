"""TRL's GRPOTrainer on a CPU, with and without LoRA: eight real steps, a checkpoint at every other. Nothing is stubbed."""

import functools
from pathlib import Path

import tiny
import truth
from cases import Case, main
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Recorder(TrainerCallback):
    """What the model is at the moment it is saved."""

    def __init__(self, out: Path, lora: bool) -> None:
        self.out, self.lora = out, lora

    def on_save(self, args, state, control, model, **others):
        weights = truth.gathered(model.state_dict())
        if self.lora:
            truth.record_adapter(self.out, state.global_step, model, weights)
        else:
            truth.record(self.out, state.global_step, weights)


def write(out: Path, rank: int, ranks: int, *, tie: bool = False, lora: dict | None = None, limit: int | None = None):
    """`lora`: settings of peft's configuration; `limit`: how many checkpoints the trainer keeps."""
    tokenizer = byte_tokenizer()
    model = tiny.qwen2(tie=tie, vocab_size=len(tokenizer))
    model.generation_config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    truth.record_base(out, model)
    tokenizer.save_pretrained(out / "base")
    settings = GRPOConfig(
        output_dir=str(out / "run"),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        max_steps=8,
        save_steps=2,
        save_total_limit=limit,
        learning_rate=1e-3,
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=model if lora is None else tiny.with_adapter(model, **lora),
        reward_funcs=lambda completions, **others: [float(len(set(completion))) for completion in completions],
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": [f"say {number}" for number in range(64)]}),
        processing_class=tokenizer,
        callbacks=[Recorder(out, lora is not None)],
    )
    trainer.train()
    trainer.save_model()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<eos>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


if __name__ == "__main__":
    main(
        {
            "full": Case(0, write),
            "tied": Case(0, functools.partial(write, tie=True)),
            "limited": Case(0, functools.partial(write, limit=2)),
            "lora": Case(0, functools.partial(write, lora={})),
            "lora_stabilised": Case(0, functools.partial(write, tie=True, lora={"use_rslora": True})),
            "lora_patterns": Case(
                0, functools.partial(write, lora={"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"v_proj": 2}})
            ),
            "lora_embeddings": Case(0, functools.partial(write, lora={"modules_to_save": ["embed_tokens"]})),
        }
    )
