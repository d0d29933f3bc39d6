"""Adapters, models of several tokenizers, and a hub of our own; nothing is downloaded."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class AdapterFolders:
    """Three adapters over one base, and the same experts with the adapters merged in."""

    base: Path
    adapters: list[Path] = field(default_factory=list)
    merged: list[Path] = field(default_factory=list)


@pytest.fixture(scope="session")
def adapter_folders(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any], tokenizer: Any
) -> AdapterFolders:
    import peft
    import torch

    from ensemw2s.models.loading.quiet import quiet_transformers

    root = tmp_path_factory.mktemp("adapters")
    out = AdapterFolders(root / "base")
    with quiet_transformers():
        make_model(0).save_pretrained(out.base)
        tokenizer.save_pretrained(out.base)
        for k in range(3):
            settings = peft.LoraConfig(r=k + 1, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
            model = peft.get_peft_model(make_model(0), settings)
            torch.manual_seed(100 + k)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.3)
            model.peft_config["default"].base_model_name_or_path = str(out.base)
            out.adapters.append(root / f"adapter-{k}")
            model.save_pretrained(out.adapters[-1], save_embedding_layers=False)
            out.merged.append(root / f"merged-{k}")
            model.merge_and_unload().save_pretrained(out.merged[-1])
            tokenizer.save_pretrained(out.adapters[-1])
            tokenizer.save_pretrained(out.merged[-1])
    return out


CORPUS = [
    "the cat sat on the mat, and the happy dog was unhappy",
    "an unhappy cat is happier than the happiest dog on the mat",
    "caf\u00e9 na\u00efve \u65e5\u672c \u65e5\u672c\u8a9e caf\u00e9s 2 3 1 sorted is 1 2 3",
    "Is the dog happy? yes or no: yes. Is the cat unhappy? no.",
]


def _fast(backend: Any, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def byte_level_tokenizer(eos: str = "<|end|>") -> Any:
    """In the manner of GPT-2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=310, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([eos])
    return _fast(backend, eos_token=eos)


def pieces_tokenizer() -> Any:
    """In the manner of Llama 2: ``\u2581`` for spaces, bytes for what it does not know, ``<s>`` before a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<unk>", "<s>", "</s>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    spaces = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.normalizer = spaces
    backend.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")  # no token reaches over a space
    ascii_only = [line.encode("ascii", "ignore").decode() for line in CORPUS]
    backend.train_from_iterator(
        ascii_only, trainers.BpeTrainer(vocab_size=140, special_tokens=special, show_progress=False)
    )
    trained = json.loads(backend.to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [token for token in trained["vocab"] if token not in special]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(pair) for pair in trained["merges"]]
    whole = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    whole.normalizer = spaces
    whole.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    whole.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    whole.add_special_tokens(special)
    return _fast(whole, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def unigram_tokenizer() -> Any:
    """In the manner of T5; it has no tokens for bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _fast(backend, unk_token="<unk>", eos_token="</s>")


def family_model(seed: int, size: int, eos: int) -> Any:
    """A small random model that ends now and then."""
    import torch
    import transformers as t

    torch.manual_seed(seed)
    config = t.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=128, initializer_range=0.25, vocab_size=size, eos_token_id=eos, bos_token_id=None,
    )  # fmt: skip
    model = t.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[eos] *= 2.0
    return model


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders: ``bytes``, ``pieces`` and ``unigram`` have different tokenizers.

    ``padded`` is another model of ``bytes`` with more logits, ``other_end`` one with another end-of-sequence token.
    """
    from ensemw2s.models.loading.quiet import quiet_transformers

    root = tmp_path_factory.mktemp("families")
    made = {
        "bytes": (byte_level_tokenizer(), 0),
        "pieces": (pieces_tokenizer(), 0),
        "unigram": (unigram_tokenizer(), 0),
        "padded": (byte_level_tokenizer(), 10),
        "other_end": (byte_level_tokenizer("<|stop|>"), 0),
    }
    with quiet_transformers():
        for seed, (name, (tokenizer, padding)) in enumerate(made.items()):
            family_model(seed, len(tokenizer) + padding, tokenizer.eos_token_id).save_pretrained(root / name)
            tokenizer.save_pretrained(root / name)
    return {name: root / name for name in made}


class Hub(ThreadingHTTPServer):
    """As much of the Hugging Face hub as its client needs to upload folders and to fetch them again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.seen: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str) -> str:
        digest = hashlib.sha1(repr(sorted(self.repos[repo].items())).encode())
        return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self._send({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code})

    def _repo(self, path: str) -> tuple[str, str]:
        """``/api/models/o/n/rest`` or ``/datasets/o/n/rest`` as (kind/o/n, rest)."""
        parts = path.split("?")[0].strip("/").split("/")
        if parts[0] == "api":
            parts = parts[1:]
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        return f"{kind}/{parts[0]}/{parts[1]}", "/".join(parts[2:])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(f"POST {self.path}")
        if self.headers.get("Authorization") != "Bearer hf_test":
            self._send({"error": "no token"}, 401, {"X-Error-Message": "no token"})
            return
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            kind = asked.get("type") or "model"
            repo = f"{kind}s/{asked['organization']}/{asked['name']}"
            self.server.repos.setdefault(repo, {})
            self.server.private[repo] = bool(asked.get("private")) or asked.get("visibility") == "private"
            prefix = "" if kind == "model" else f"{kind}s/"
            self._send({"url": f"{self.server.address}/{prefix}{repo.partition('/')[2]}"})
            return
        if self.path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
            return
        repo, rest = self._repo(self.path)
        if rest.startswith("preupload/"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]
            self._send({"files": files})
        elif rest.startswith("commit/"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.repos[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            oid = self.server.commit(repo)
            self._send({"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/{repo}/commit/{oid}"})
        else:
            self._missing("EntryNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")
        repo, rest = self._repo(self.path)
        files = self.server.repos.get(repo)
        if files is None:
            self._missing("RepoNotFound")
            return
        oid = self.server.commit(repo)
        if rest.startswith("resolve/"):
            content = files.get(rest.split("/", 2)[2])
            if content is None:
                self._missing("EntryNotFound")
                return
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._send(content, headers={"X-Repo-Commit": oid, "ETag": etag, "Accept-Ranges": "none"})
        elif rest.startswith("tree/"):
            known = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in sorted(files.items())
            ]
            self._send(known)
        elif rest == "" or rest.startswith("revision/"):
            siblings = [{"rfilename": name} for name in sorted(files)]
            self._send({"id": repo.partition("/")[2], "sha": oid, "siblings": siblings, "tags": [], "private": False})
        else:
            self._missing("EntryNotFound")


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
