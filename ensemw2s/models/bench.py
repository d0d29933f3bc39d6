"""The case of ``ew2s bench`` that scores options: ours against one sequence at a time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.encode import EncodedSplit, encode_split
from ensemw2s.data.synthetic import make_synthetic
from ensemw2s.kernels.bench.cases import Case
from ensemw2s.kernels.bench.timing import Run
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.loading.load import LoadedModel, load_model

GROUP = "scoring"


def scoring_case(device: torch.device | str = "cpu", *, quick: bool = False) -> Case:
    """The embedded weak base scores the options of its own kind of questions."""
    questions = 50 if quick else 200
    name, size = "option scoring, embedded base", f"{questions} questions"
    return Case(GROUP, name, size, partial(_ways, torch.device(device), questions), memory=100 * 2**20)


def _ways(device: torch.device, questions: int) -> Mapping[str, Run]:
    loaded = load_model(ModelConfig(path="embedded:weak"), device)
    examples = make_synthetic(questions, seed=0)
    template = TemplateConfig(prompt="{prompt} ", answer="{answer}")
    encoded = encode_split(examples, loaded.tokenizer, template, "choice", None)
    compute = ComputeConfig(device=str(device), threads=torch.get_num_threads())
    return {
        "shared prompts": lambda: score_split(loaded, encoded, compute=compute),
        "one at a time": lambda: one_at_a_time(loaded, encoded),
    }


@torch.inference_mode()
def one_at_a_time(loaded: LoadedModel, encoded: EncodedSplit) -> list[float]:
    """Log-probability of every option, as one would write it with ``transformers``: ``[S]``."""
    scores = []
    for example, option in zip(encoded.seq_example, encoded.seq_option, strict=True):
        prompt, tokens = encoded.prompts[example], encoded.options[example][option]
        ids = torch.from_numpy(np.concatenate([prompt, tokens]).astype(np.int64))[None].to(loaded.device)
        every = torch.log_softmax(loaded.model(input_ids=ids).logits[0].float(), dim=-1)
        scores.append(float(every[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None]).sum()))
    return scores
