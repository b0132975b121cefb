"""A token scorer of one's own, beside `recency` and `random` at the same keep ratio.

The scorer ranks tokens by the length of their hidden states. The table shows how far the distribution of the next token
moves away from the unpruned model's, over a few prompts.

    python examples/custom_scorer.py --keep 0.5
"""

from __future__ import annotations

import argparse
from statistics import mean
from typing import Any

import torch

import erecap
import erecap.tokens
from erecap.models import load


class NormScorer:
    """Ranks a token by the length of its hidden state."""

    needs_attention = False

    def score(self, layer: int, hidden: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Scores `(batch, tokens)` of `hidden` `(batch, tokens, hidden_size)`; higher is kept longer."""
        return hidden.float().norm(dim=-1)


def prompts(count: int) -> list[list[dict[str, str]]]:
    """Chats in which one of many observations says where the mug is."""
    chats = []
    for number in range(count):
        seen = [f"On the shelf {n}, you see {'a mug 1' if n == 3 + number else 'nothing'}." for n in range(1, 21)]
        chats.append([{"role": "user", "content": "Goal: find the mug.\n" + "\n".join(seen) + "\nWhere is the mug?"}])
    return chats


def next_token(model: Any, inputs: Any, cache: Any = None) -> torch.Tensor:
    """Log-probabilities `(vocab,)` of the next token."""
    options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    made = model.generate(**inputs, **options, **({} if cache is None else {"past_key_values": cache}))
    return made.logits[0][0].float().log_softmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--keep", type=float, default=0.7, help="share of its tokens that a stage keeps")
    parser.add_argument("--prompts", type=int, default=4)
    args = parser.parse_args()

    erecap.tokens.register("norm", NormScorer)  # from now on `prune[norm]` is a mode as well
    model, tokenizer = load(args.model)
    options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    inputs = [tokenizer.apply_chat_template(chat, **options).to(model.device) for chat in prompts(args.prompts)]
    whole = [next_token(model, given) for given in inputs]
    print(f"{'scorer':9} {'stored':>7} {'KL (nats)':>10} {'same token':>11}")
    for scorer in ("norm", "recency", "random"):
        stored, distances, same = [], [], []
        for given, expected in zip(inputs, whole, strict=True):
            with erecap.prune(model, erecap.PruneConfig(scorer=scorer, keep=args.keep)) as cache:
                found = next_token(model, given, cache)
            stored.append(mean(cache.kept_lengths()) / given["input_ids"].shape[1])
            distances.append(float((expected.exp() * (expected - found)).sum()))
            same.append(bool(expected.argmax() == found.argmax()))
        print(f"{scorer:9} {mean(stored):7.0%} {mean(distances):10.4f} {mean(same):11.0%}")


if __name__ == "__main__":
    main()
