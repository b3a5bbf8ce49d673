"""Published checkpoints: every key and shape and no other, the right statistics, refusals that name the fault."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import pi_models
from support import prismatic_models as small

from ecovla_ros import build, cli, config
from ecovla_ros.bench.inputs.published import linear, openpi, write
from ecovla_ros.build import SHIPPED
from ecovla_ros.config import EmbodimentConfig, PolicyConfig
from ecovla_ros.control import kinematics
from ecovla_ros.errors import CheckpointError, ConfigError
from ecovla_ros.models import shapes
from ecovla_ros.models.base import DENSE
from ecovla_ros.models.cogact import checkpoint as cogact
from ecovla_ros.models.data import statistics
from ecovla_ros.models.data.prompt import Prompt, state_prompt
from ecovla_ros.models.data.weights import Weights, blank, open_safetensors
from ecovla_ros.models.openvla_oft import checkpoint as oft
from ecovla_ros.models.pi import published
from ecovla_ros.models.pi.convert import from_weights
from ecovla_ros.models.prismatic.prompt import QUESTION

TWO = EmbodimentConfig(cameras=("third_person=base_0_rgb", "wrist=left_wrist_0_rgb"))
OFT_CAMERAS = EmbodimentConfig(cameras=("third_person=primary", "wrist=wrist"), statistics="gen3", chunk=3)
COGACT_CAMERA = EmbodimentConfig(cameras=("third_person=primary",))


def meta(names):
    """Weights of which only names and shapes exist."""
    return Weights(names, lambda n: torch.empty(names[n], device="meta"), "a checkpoint")


def timm(prefix, width, mlp, blocks, scale=None):
    out = {f"{prefix}pos_embed": (1, 256, width), f"{prefix}patch_embed.proj.weight": (width, 3, 14, 14),
           f"{prefix}patch_embed.proj.bias": (width,)}  # fmt: skip
    out |= {f"{prefix}norm.{k}": (width,) for k in ("weight", "bias")}
    for i in range(blocks):
        at = f"{prefix}blocks.{i}."
        out |= {f"{at}norm{j}.{k}": (width,) for j in (1, 2) for k in ("weight", "bias")}
        out |= linear(f"{at}attn.qkv", width, 3 * width) | linear(f"{at}attn.proj", width, width)
        out |= linear(f"{at}mlp.fc1", width, mlp) | linear(f"{at}mlp.fc2", mlp, width)
        if scale:
            out |= {f"{at}ls{j}.{scale}": (width,) for j in (1, 2)}
    if scale:
        return out | {f"{prefix}cls_token": (1, 1, width), f"{prefix}reg_token": (1, 4, width)}
    out |= {f"{prefix}attn_pool.latent": (1, 1, width)} | linear(f"{prefix}attn_pool.kv", width, 2 * width)
    return out | linear(f"{prefix}attn_pool.mlp.fc1", width, mlp)


def llama(prefix, vocab=32_064):
    out = {f"{prefix}model.embed_tokens.weight": (vocab, 4096), f"{prefix}lm_head.weight": (vocab, 4096)}
    out |= {f"{prefix}model.norm.weight": (4096,)}
    for i in range(32):
        at = f"{prefix}model.layers.{i}."
        out |= {f"{at}self_attn.{n}_proj.weight": (4096, 4096) for n in "qkvo"}
        out |= {f"{at}mlp.{n}_proj.weight": (11_008, 4096) for n in ("gate", "up")}
        out |= {f"{at}mlp.down_proj.weight": (4096, 11_008)}
        out |= {f"{at}{n}.weight": (4096,) for n in ("input_layernorm", "post_attention_layernorm")}
    return out


def openvla():
    out = timm("vision_backbone.featurizer.", 1024, 4096, 24, "scale_factor")
    out |= timm("vision_backbone.fused_featurizer.", 1152, 4304, 27) | llama("language_model.")
    return (
        out
        | linear("projector.fc1", 2176, 8704)
        | linear("projector.fc2", 8704, 4096)
        | linear("projector.fc3", 4096, 4096)
    )


def oft_head(prefix=""):
    out = linear(f"{prefix}model.fc1", 8 * 4096, 4096) | linear(f"{prefix}model.fc2", 4096, 8)
    out |= {f"{prefix}model.layer_norm1.{k}": (8 * 4096,) for k in ("weight", "bias")}
    out |= {f"{prefix}model.layer_norm2.{k}": (4096,) for k in ("weight", "bias")}
    for i in range(2):
        at = f"{prefix}model.mlp_resnet_blocks.{i}.ffn."
        out |= {f"{at}0.{k}": (4096,) for k in ("weight", "bias")} | linear(f"{at}1", 4096, 4096)
    return out


def cogact_names():
    out = timm("vision_backbone.dino_featurizer.", 1024, 4096, 24, "gamma")
    out |= timm("vision_backbone.siglip_featurizer.", 1152, 4304, 27) | llama("llm_backbone.llm.")
    out |= linear("projector.projector.0", 2176, 8704) | linear("projector.projector.2", 8704, 4096)
    net = "action_model.net."
    out |= linear("projector.projector.4", 4096, 4096) | {f"{net}positional_embedding": (17, 768)}
    out |= {f"{net}z_embedder.uncondition": (1, 4096)} | linear(f"{net}z_embedder.linear", 4096, 768)
    out |= linear(f"{net}t_embedder.mlp.0", 256, 768) | linear(f"{net}t_embedder.mlp.2", 768, 768)
    out |= linear(f"{net}x_embedder.linear", 8, 768) | linear(f"{net}history_embedder.linear", 8, 768)
    out |= linear(f"{net}final_layer.linear", 768, 8)
    for i in range(12):
        at = f"{net}blocks.{i}."
        out |= linear(f"{at}attn.qkv", 768, 2304) | linear(f"{at}attn.proj", 768, 768)
        out |= linear(f"{at}mlp.fc1", 768, 3072) | linear(f"{at}mlp.fc2", 3072, 768)
    return out


def _pi(names):
    weights = published.named(meta(names))
    variant = "pi05" if "time_mlp_in.weight" in weights else "pi0"
    return from_weights({"pi0": shapes.PI0, "pi05": shapes.PI05}[variant], weights, "meta", torch.bfloat16)


def _oft(names):
    head, projector = meta(oft_head("module.")), meta(linear("module.fc1", 8, 4096) | linear("module.fc2", 4096, 4096))
    document = {"model_type": "openvla", "vision_backbone_id": "dinosiglip-vit-so-224px",
                "text_config": {"model_type": "llama", "vocab_size": 32_064}}  # fmt: skip
    found = oft.config_of(document, head, projector, ("third_person", "wrist"), 8)
    assert found == shapes.OFT
    return oft.from_weights(found, meta(names), head, projector, "meta", torch.bfloat16)


def _cogact(names):
    weights = meta(names)
    found = cogact.config_of({"vla": {"base_vlm": "prism-dinosiglip-224px+7b"}}, weights, ("third_person",))
    assert found == shapes.COGACT
    return cogact.from_weights(found, weights, "meta", torch.bfloat16)


FULL = {
    "openpi pi0": (_pi, openpi("pi0", tied=True)),
    "openpi pi05": (_pi, openpi("pi05", tied=True)),
    "lerobot pi0": (_pi, openpi("pi0", "model.", tower="vision_tower.")),
    "lerobot pi05": (_pi, openpi("pi05", "model.", tied=True)),
    "openvla-oft": (_oft, openvla()),
    "cogact": (_cogact, cogact_names()),
}
EVERY = pytest.mark.parametrize("name", FULL)


@pytest.mark.reads("checkpoint", "{name}")
@EVERY
def test_the_published_keys_and_shapes_fill_the_model_exactly(name):
    make, names = FULL[name]
    assert next(make(names).parameters()).dtype == torch.bfloat16


@EVERY
@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_a_key_more_or_less_or_of_another_shape_is_named(name, fault):
    make, names = FULL[name]
    at = next(n for n in names if n.endswith("layers.3.mlp.up_proj.weight"))
    broken = dict(names)
    if fault == "missing":
        del broken[at]
    elif fault == "extra":
        broken[at.replace("layers.3", "layers.77")] = names[at]
    else:
        broken[at] = (names[at][0] - 1, names[at][1])
    with pytest.raises(CheckpointError, match="up_proj|mlp.up"):
        make(broken)


def word_tokenizer(path, texts):
    """Ids below 64, so that small vocabularies hold them."""
    Prompt.build(texts, 64).save(path)


@pytest.fixture()
def pi0_folder(tmp_path):
    """transformers' pi0, tiny, with openpi's statistics."""
    pytest.importorskip("transformers")
    from ecovla_ros.bench.fidelity import parity

    reference, model = parity.pair(parity.CASES[0], 0)
    save_file({k: v.clone().contiguous() for k, v in reference.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(reference.config.to_dict(), default=str))
    stats = {
        k: {"mean": [0.1] * 8, "std": [0.5] * 8, "q01": [-1.0] * 8, "q99": [2.0] * 8} for k in ("state", "actions")
    }
    (tmp_path / "assets" / "gen3").mkdir(parents=True)
    (tmp_path / "assets" / "gen3" / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}))
    word_tokenizer(tmp_path / "tokenizer.json", pi_models.TEXTS)
    return tmp_path, model


def test_a_transformers_folder_acts_as_the_model_it_was_saved_from(pi0_folder):
    folder, model = pi0_folder
    of = published.load(folder, "cpu", torch.float32, TWO)
    assert of.spec.cameras == {"third_person": (56, 56), "wrist": (56, 56)} and of.spec.period_s == 0.1
    assert (of.config.fit, of.config.cameras, of.config.variant) == ("pad", ("third_person", "wrist"), "pi0")
    for name, value in model.state_dict().items():  # which transformers' own actions are compared with elsewhere
        assert torch.equal(of.model.state_dict()[name], value), name
    obs = pi_models.observation(of.config)
    start = pi_models.noise(of.config)
    seen = of.encode(obs)
    ours = of.act(seen, of.prefill(seen, DENSE), DENSE, start)
    ids = of.prompt.ids(obs.instruction)
    assert ids[0] == 2 and ids[1:] == of.prompt.tokenizer.encode(obs.instruction).ids
    chunk = of.to_chunk(seen, ours)
    expected = ours[:, :8].double().numpy() * (0.5 + 1e-6) + 0.1
    assert np.allclose((chunk.joints - expected[:, :7] + np.pi) % (2 * np.pi) - np.pi, 0.0, atol=1e-6)


FAULTS = {
    "no statistics": (lambda f: (f / "assets" / "gen3" / "norm_stats.json").unlink(), TWO, "norm_stats.json"),
    "unknown data set": (lambda f: None, dataclasses.replace(TWO, statistics="gen4"), "gen4.*gen3"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), TWO, "tokenizer"),
    "no configuration": (lambda f: (f / "config.json").unlink(), TWO, "config.json"),
    "foreign configuration": (lambda f: (f / "config.json").write_text('{"type": "act"}'), TWO, "lerobot.*openpi"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), TWO, "model.safetensors"),
    "truncated": (lambda f: _cut(f / "model.safetensors"), TWO, "not a complete safetensors"),
    "whole numbers": (lambda f: _whole(f / "model.safetensors"), TWO, "action_in_proj.*not finite floating-point"),
    "no camera": (lambda f: None, EmbodimentConfig(), "no camera for slot base_0_rgb"),
    "wrong slot": (
        lambda f: None,
        EmbodimentConfig(cameras=("wrist=right",)),
        "unknown slot 'right'.*left_wrist_0_rgb",
    ),
    "wrong camera": (lambda f: None, EmbodimentConfig(cameras=("head=base_0_rgb",)), "unknown camera 'head'"),
    "a slot twice": (
        lambda f: None,
        EmbodimentConfig(cameras=("wrist=base_0_rgb", "third_person=base_0_rgb")),
        "second",
    ),
    "not a mapping": (lambda f: None, EmbodimentConfig(cameras=("wrist",)), "camera=slot"),
    "another arm": (lambda f: _statistics(f, [0.0] * 7), TWO, "7 dimensions; this arm has 8"),
    "not finite": (lambda f: _statistics(f, [float("nan")] * 8), TWO, "finite"),
}


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _whole(path):
    weights = load_file(path)
    name = next(n for n in weights if n.endswith("action_in_proj.weight"))
    save_file({**weights, name: weights[name].to(torch.int32)}, path)


def _statistics(folder, mean):
    path = folder / "assets" / "gen3" / "norm_stats.json"
    stats = json.loads(path.read_text())
    stats["norm_stats"]["actions"] |= {"mean": mean, "std": [1.0] * len(mean)}
    path.write_text(json.dumps(stats))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_not_whole_is_refused_and_the_fault_named(pi0_folder, fault):
    folder, _ = pi0_folder
    spoil, embodiment, match = FAULTS[fault]
    spoil(folder)
    with pytest.raises(CheckpointError, match=match):
        published.load(folder, "cpu", torch.float32, embodiment)


def test_shards_are_one_checkpoint_and_a_lost_shard_is_named(pi0_folder):
    folder, _ = pi0_folder
    whole = published.load(folder, "cpu", torch.float32, TWO).model.state_dict()
    with ExitStack() as files:
        weights = open_safetensors(folder, files)
        tensors = {name: weights(name).clone() for name in weights.shapes}
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, folder / file)
    index = {"weight_map": {n: file for file, part in parts.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    again = published.load(folder, "cpu", torch.float32, TWO).model.state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks the shards b.safetensors"):
        published.load(folder, "cpu", torch.float32, TWO)


def test_pi05_reads_lerobots_statistics_and_writes_its_state_into_the_prompt(tmp_path, monkeypatch):
    of_old = dataclasses.replace(
        pi_models.SIGLIP, variant="pi05", max_prompt=64, vocab=512, state_dim=32, action_dim=32
    )
    model = pi_models.model(of_old)
    save_file({f"model.{k}": v.contiguous() for k, v in _as_lerobot(model).items()}, tmp_path / "model.safetensors")
    document = {"type": "pi05", "input_features": {"observation.images.scene": {}, "observation.images.wrist": {}},
                "normalization_mapping": {"STATE": "QUANTILES", "ACTION": "QUANTILES"},
                "use_relative_actions": True}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(document))
    stats = {
        f"{k}.{n}": torch.full((8,), v)
        for k in ("observation.state", "action")
        for n, v in (("q01", -1.0), ("q99", 3.0))
    }
    save_file(stats, tmp_path / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    word_tokenizer(tmp_path / "tokenizer.json", [state_prompt(pi_models.TEXTS[0], range(-1, 256))])
    monkeypatch.setattr(published, "_openpi_config", lambda *a: dataclasses.replace(of_old, fit="pad"))
    embodiment = EmbodimentConfig(cameras=("wrist=wrist", "third_person=scene"), actions="relative", gripper=(1.0, 0.0))
    of = published.load(tmp_path, "cpu", torch.float32, embodiment)
    with pytest.raises(CheckpointError, match="trained on relative actions; set policy.embodiment.actions=relative"):
        published.load(tmp_path, "cpu", torch.float32, dataclasses.replace(embodiment, actions="absolute"))
    assert of.config.cameras == ("third_person", "wrist"), "in the order of the slots, not of the mapping"
    for name, value in model.state_dict().items():
        assert torch.equal(of.model.state_dict()[name], value), name
    obs = pi_models.observation(of.config, gripper=0.3)
    chunk = of.to_chunk(of.encode(obs), torch.zeros(of.config.horizon, 32))
    assert np.allclose(chunk.joints, obs.joints + 1.0, atol=1e-6)  # the middle of -1..3
    assert np.allclose(chunk.gripper, 0.0), "1 means open in these data, and the middle of them is 1"
    words = of.words(obs.instruction, of.normaliser.state(obs.joints, obs.gripper))
    gripper = (0.7 - (-1.0)) / 4.0 * 2.0 - 1.0  # three tenths closed is 0.7 in these data
    assert words.split(":")[2].split(";")[0].split()[7] == str(int((gripper + 1.0) * 128))


def _as_lerobot(model):
    """The inverse of the key map, written down on its own."""
    c, out = model.config, {}
    tower, lm = (
        "paligemma_with_expert.paligemma.model.vision_tower.vision_model.",
        "paligemma_with_expert.paligemma.model.",
    )
    d = c.head_dim

    def rows(w):
        return w.unflatten(0, (-1, c.kv_heads, d)).transpose(0, 1).reshape(w.shape)  # ranks by group again

    def layer(at, attention, mlp=None, before=None, after=None):
        kv = c.kv_heads * d
        v, k, q = attention.vkq[:kv], attention.vkq[kv : 2 * kv], attention.vkq[2 * kv :]
        full = torch.zeros(c.heads * d, q.shape[1])
        out[f"{at}self_attn.k_proj.weight"], out[f"{at}self_attn.v_proj.weight"] = k, v
        out[f"{at}self_attn.q_proj.weight"] = rows(q) if len(q) else full
        out[f"{at}self_attn.o_proj.weight"] = rows(attention.o).T if mlp else full.T
        for n, w in (("gate", "gate"), ("up", "up"), ("down", "down")):
            value = getattr(mlp, w) if mlp else torch.zeros(2, q.shape[1])
            out[f"{at}mlp.{n}_proj.weight"] = value.T if n == "down" else value
        if before is not None:
            out[f"{at}input_layernorm.weight"], out[f"{at}post_attention_layernorm.weight"] = before, after

    for i, block in enumerate(model.lm):
        layer(
            f"{lm}language_model.layers.{i}.",
            block.attention,
            block.mlp,
            block.attention.norm.weight,
            block.norm.weight,
        )
    layer(
        f"{lm}language_model.layers.{c.layers - 1}.",
        model.lm_last,
        None,
        model.lm_last.norm.weight,
        torch.zeros(c.lm_width),
    )
    for i, block in enumerate(model.expert):
        at = f"paligemma_with_expert.gemma_expert.model.layers.{i}."
        layer(at, block.attention, block.mlp)
        for j, n in enumerate(("input_layernorm", "post_attention_layernorm")):
            for kind in ("weight", "bias"):
                out[f"{at}{n}.dense.{kind}"] = getattr(model.modulator, kind)[2 * i + j]
    for kind in ("weight", "bias"):
        out[f"paligemma_with_expert.gemma_expert.model.norm.dense.{kind}"] = getattr(model.modulator, kind)[-1]
        out[f"{lm}multi_modal_projector.linear.{kind}"] = getattr(model.projector, kind)
        out[f"{tower}embeddings.patch_embedding.{kind}"] = getattr(model.vision.patches, kind)
        out[f"{tower}post_layernorm.{kind}"] = getattr(model.vision.norm, kind)
        for mine, theirs in (("action_in", "action_in_proj"), ("action_out", "action_out_proj"),
                             ("time_in", "time_mlp_in"),
                             ("time_out", "time_mlp_out")):  # fmt: skip
            out[f"{theirs}.{kind}"] = getattr(getattr(model, mine), kind)
        for i, vit in enumerate(model.vision.layers):
            at = f"{tower}encoder.layers.{i}."
            for n, w in zip("qkv", getattr(vit.qkv, kind).chunk(3)):
                out[f"{at}self_attn.{n}_proj.{kind}"] = w
            out[f"{at}self_attn.out_proj.{kind}"] = getattr(vit.out, kind)
            for j in (1, 2):
                out[f"{at}layer_norm{j}.{kind}"] = getattr(getattr(vit, f"norm{j}"), kind)
                out[f"{at}mlp.fc{j}.{kind}"] = getattr(getattr(vit, f"fc{j}"), kind)
    out[f"{tower}embeddings.position_embedding.weight"] = model.vision.position
    out["paligemma_with_expert.paligemma.lm_head.weight"] = model.embedding
    out[f"{lm}language_model.norm.weight"] = torch.zeros(c.lm_width)
    return {k: v.detach().clone() for k, v in out.items()}


def _prismatic(model, towers, scale, projector, llama_at):
    """Vision, projector and Llama of a small model under published names, with parts that nothing reads."""
    out = {}
    for tower, at in zip(model.vision.towers, towers):
        out |= {f"{at}pos_embed": tower.position[None], f"{at}norm.weight": torch.ones(3)}
        if tower.prefix is not None:
            out |= {f"{at}cls_token": tower.prefix[None, :1], f"{at}reg_token": tower.prefix[None, 1:]}
        out[f"{at}blocks.{len(tower.layers)}.norm1.weight"] = torch.ones(3)
        for kind in ("weight", "bias"):
            out[f"{at}patch_embed.proj.{kind}"] = getattr(tower.patches, kind)
            for i, vit in enumerate(tower.layers):
                for mine, theirs in (("norm1",) * 2, ("norm2",) * 2, ("qkv", "attn.qkv"), ("out", "attn.proj"),
                                     ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):  # fmt: skip
                    out[f"{at}blocks.{i}.{theirs}.{kind}"] = getattr(getattr(vit, mine), kind)
        for i, vit in enumerate(tower.layers):
            if vit.scale1 is not None:
                out |= {f"{at}blocks.{i}.ls1.{scale}": vit.scale1, f"{at}blocks.{i}.ls2.{scale}": vit.scale2}
    for name, at in zip(("fc1", "fc2", "fc3"), projector):
        out |= {f"{at}.{kind}": getattr(getattr(model.projector, name), kind) for kind in ("weight", "bias")}
    for i, block in enumerate([*model.lm, model.lm_last]):
        at, attention, mlp = f"{llama_at}model.layers.{i}.", block.attention, block.mlp
        out |= {f"{at}self_attn.{n}_proj.weight": getattr(attention, n) for n in "qkv"}
        out |= {f"{at}self_attn.o_proj.weight": attention.o.T, f"{at}mlp.down_proj.weight": mlp.down.T}
        out |= {f"{at}mlp.gate_proj.weight": mlp.gate, f"{at}mlp.up_proj.weight": mlp.up}
        out |= {
            f"{at}input_layernorm.weight": attention.norm.weight,
            f"{at}post_attention_layernorm.weight": block.norm.weight,
        }
    out |= {f"{llama_at}model.embed_tokens.weight": model.embedding, f"{llama_at}model.norm.weight": model.norm.weight}
    out[f"{llama_at}lm_head.weight"] = torch.ones(3)
    return {k: v.detach().clone().contiguous() for k, v in out.items()}


def _statistics_file(folder, sets):
    entry = {"q01": [-0.2] * 8, "q99": [0.6] * 8, "mask": [True] * 7 + [False]}
    (folder / "dataset_statistics.json").write_text(json.dumps({s: {"action": entry, "proprio": entry} for s in sets}))
    words = [QUESTION.format(t) for t in small.TEXTS]
    word_tokenizer(folder / "tokenizer.json", words)


@pytest.fixture()
def oft_folder(tmp_path, monkeypatch):
    model = small.policy("oft").model
    names = _prismatic(model, ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer."), "scale_factor",
                       [f"projector.fc{i}" for i in (1, 2, 3)], "language_model.")  # fmt: skip
    save_file(names, tmp_path / "model.safetensors")
    head = {}
    for kind in ("weight", "bias"):
        for mine, theirs in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("fc1", "fc1"), ("fc2", "fc2")):
            head[f"module.model.{theirs}.{kind}"] = getattr(getattr(model.head, mine), kind).detach().clone()
        for i, block in enumerate(model.head.blocks):
            for j, part in enumerate((block.norm, block.fc)):
                head[f"module.model.mlp_resnet_blocks.{i}.ffn.{j}.{kind}"] = getattr(part, kind).detach().clone()
    torch.save(head, tmp_path / "action_head--9_checkpoint.pt")
    state = {f"module.{n}.{k}": getattr(getattr(model.state_token, n), k).detach().clone()
             for n in ("fc1", "fc2") for k in ("weight", "bias")}  # fmt: skip
    torch.save(state, tmp_path / "proprio_projector--9_checkpoint.pt")
    document = {"model_type": "openvla", "vision_backbone_id": "dinosiglip-vit-so-224px", "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    _statistics_file(tmp_path, ("gen3", "bridge"))
    monkeypatch.setattr(oft, "config_of", lambda *a: dataclasses.replace(small.OFT, vocab=small.OFT.vocab))
    monkeypatch.setattr(oft, "EMPTY", small.EMPTY)
    return tmp_path, model


@pytest.fixture()
def cogact_folder(tmp_path, monkeypatch):
    model = small.policy("cogact").model
    flat = _prismatic(model, ("vision_backbone.dino_featurizer.", "vision_backbone.siglip_featurizer."), "gamma",
                      [f"projector.projector.{i}" for i in (0, 2, 4)], "llm_backbone.llm.")  # fmt: skip
    net, dit = {}, model.dit
    plain = {"action_in": "x_embedder.linear", "time_in": "t_embedder.mlp.0", "time_out": "t_embedder.mlp.2",
             "condition_in": "z_embedder.linear", "action_out": "final_layer.linear"}  # fmt: skip
    for kind in ("weight", "bias"):
        net |= {f"net.{theirs}.{kind}": getattr(getattr(dit, mine), kind) for mine, theirs in plain.items()}
    net |= {"net.positional_embedding": dit.position, "net.z_embedder.uncondition": dit.unconditional[None],
            "net.history_embedder.linear.weight": torch.ones(2)}  # fmt: skip
    for i, block in enumerate(dit.blocks):
        a, m, at = block.attention, block.mlp, f"net.blocks.{i}."
        net |= {
            f"{at}attn.qkv.weight": torch.cat((a.q, a.k, a.v)),
            f"{at}attn.qkv.bias": a.biases.flatten(),
            f"{at}attn.proj.weight": a.o.T,
            f"{at}attn.proj.bias": a.o_bias,
            f"{at}mlp.fc1.weight": m.gate,
            f"{at}mlp.fc1.bias": m.gate_bias,
            f"{at}mlp.fc2.weight": m.down.T,
            f"{at}mlp.fc2.bias": m.down_bias,
        }
    nested = {}
    for name, value in flat.items():
        part, rest = name.split(".", 1)
        nested.setdefault(part, {})[rest] = value
    nested["action_model"] = {k: v.detach().clone() for k, v in net.items()}
    (tmp_path / "checkpoints").mkdir()
    torch.save({"model": nested}, tmp_path / "checkpoints" / "CogACT-Tiny.pt")
    (tmp_path / "config.json").write_text(json.dumps({"vla": {"base_vlm": "prism-dinosiglip-224px+7b"}}))
    _statistics_file(tmp_path, ("gen3",))
    monkeypatch.setattr(cogact, "config_of", lambda *a: small.COGACT)
    monkeypatch.setattr(cogact, "EMPTY", small.EMPTY)
    return tmp_path, model


def test_an_oft_folder_gives_back_the_model_and_its_bounds(oft_folder):
    folder, model = oft_folder
    of = oft.load(folder, "cpu", torch.float32, OFT_CAMERAS)
    assert all(torch.equal(of.model.state_dict()[k], v) for k, v in model.state_dict().items())
    obs = small.observation(of.config)
    ids = of.prompt.ids(obs.instruction)
    assert (ids[0], ids[-1]) == (1, small.EMPTY)
    chunk = of.to_chunk(of.encode(obs), torch.ones(of.config.horizon, 8))
    assert np.allclose((chunk.joints - 0.6 + np.pi) % (2 * np.pi) - np.pi, 0.0, atol=1e-6)  # +1 is q99
    assert np.allclose(chunk.gripper, 1.0), "the gripper is masked: as the model says it"


def test_a_cogact_folder_gives_back_the_model_and_clips_its_actions(cogact_folder):
    folder, model = cogact_folder
    of = cogact.load(folder, "cpu", torch.float32, COGACT_CAMERA)
    assert all(torch.equal(of.model.state_dict()[k], v) for k, v in model.state_dict().items())
    obs = small.observation(of.config)
    assert of.prompt.ids(obs.instruction)[-2:] == [small.EMPTY, 2]
    chunk = of.to_chunk(of.encode(obs), torch.full((of.config.horizon, 8), -7.0))
    assert np.allclose((chunk.joints + 0.2 + np.pi) % (2 * np.pi) - np.pi, 0.0, atol=1e-6)  # -7 is clipped to -1, q01


@pytest.mark.parametrize("frame", ["base", "tool"])
def test_actions_that_are_motions_of_the_tool_become_joint_targets(cogact_folder, frame):
    """The tool goes where the motions add up to; the gripper by its ends; NaN stays NaN, for the guard to latch on."""
    folder, _ = cogact_folder
    spread = [0.01, 0.004, 0.006, 0.02, 0.03, 0.01, 1.0]
    stats = {"q01": [-s for s in spread], "q99": spread, "mask": [True] * 7}
    (folder / "dataset_statistics.json").write_text(json.dumps({"gen3": {"action": stats, "proprio": {}}}))
    moves = dataclasses.replace(COGACT_CAMERA, actions=f"delta_{frame}", gripper=(1.0, -1.0))
    of = cogact.load(folder, "cpu", torch.float32, moves)
    joints = np.array([0.1, 0.5, 3.1, -1.6, 0.0, -1.0, 1.57])
    obs = dataclasses.replace(small.observation(of.config), joints=joints)
    still = torch.zeros(of.config.horizon, 8)
    assert np.allclose(of.to_chunk(of.encode(obs), still).joints, joints, atol=1e-6)
    still[:, 0], still[:, 6] = 1.0, -1.0
    chunk = of.to_chunk(of.encode(obs), still)
    (before, turned), (after, _) = kinematics.pose(joints), kinematics.pose(chunk.joints[-1])
    way = np.array([0.01 * of.config.horizon, 0.0, 0.0])
    assert np.allclose(after - before, way if frame == "base" else turned @ way, atol=2e-4)
    assert np.allclose(chunk.gripper, 1.0), "-1 is closed"
    still[2, 3] = torch.nan
    assert np.isnan(of.to_chunk(of.encode(obs), still).joints).all()
    with pytest.raises(CheckpointError, match="7 dimensions; this arm has 8.*actions=absolute"):
        cogact.load(folder, "cpu", torch.float32, COGACT_CAMERA)


OFT_FAULTS = {
    "several data sets": (lambda f: None, dataclasses.replace(OFT_CAMERAS, statistics=""), "gen3, bridge; set"),
    "unknown data set": (lambda f: None, dataclasses.replace(OFT_CAMERAS, statistics="gen"), "unknown.*'gen'.*gen3"),
    "no head": (lambda f: (f / "action_head--9_checkpoint.pt").unlink(), OFT_CAMERAS, "action_head--"),
    "a broken head": (lambda f: _cut(f / "action_head--9_checkpoint.pt"), OFT_CAMERAS, "not a PyTorch archive"),
    "code in the head": (lambda f: torch.save({"x": pytest.raises}, f / "action_head--9_checkpoint.pt"), OFT_CAMERAS,
                         "not a PyTorch archive of tensors"),
    "one camera": (lambda f: None, dataclasses.replace(OFT_CAMERAS, cameras=("wrist=wrist",)), "slot primary"),
}  # fmt: skip


@pytest.mark.parametrize("fault", OFT_FAULTS)
def test_an_oft_folder_that_is_not_whole_is_refused(oft_folder, fault):
    spoil, embodiment, match = OFT_FAULTS[fault]
    spoil(oft_folder[0])
    with pytest.raises(CheckpointError, match=match):
        oft.load(oft_folder[0], "cpu", torch.float32, embodiment)


@pytest.mark.parametrize("values, mode, match", [
    ({"mean": [0.0]}, "mean_std", "std are needed"),
    ({"q01": [1.0], "q99": [0.0]}, "quantiles", "q99 is below q01"),
    ({"q01": [0.0, 1.0], "q99": [2.0]}, "quantiles", "2 numbers, q99 1"),
    ({"min": "x", "max": [1.0]}, "min_max", "min is not numbers"),
])  # fmt: skip
def test_statistics_that_are_none_are_refused(values, mode, match):
    with pytest.raises(CheckpointError, match=match):
        statistics.affine(values, mode, 0.0, "here")


@pytest.mark.parametrize("name", ["pi05_gen3.yaml", "openvla_oft_gen3.yaml", "cogact_gen3.yaml"])
def test_the_shipped_configurations_name_a_folder_that_must_exist(name):
    settings = config.load(config.shipped(name))
    assert settings.policy.model in build.PUBLISHED and settings.policy.embodiment.cameras
    with pytest.raises(CheckpointError, match="config.json|neither|checkpoints/"):
        build.policy(settings.policy)


def test_random_weights_drive_no_arm():
    with pytest.raises(ConfigError, match="needs policy.checkpoint: random weights"):
        build.engine(config.Config(policy=PolicyConfig(model="cogact-reduced")))


def test_blank_weights_are_made_without_a_draw():
    state = torch.get_rng_state()
    made = blank(lambda: torch.nn.Linear(3, 3), "cpu", torch.bfloat16)
    assert made.weight.dtype == torch.bfloat16 and torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


def test_inspect_reads_a_checkpoint_of_pi0_of_which_only_the_headers_are_there(tmp_path, capsys):
    """Three billion weights that are holes; without --config, as one who has just fetched it would."""
    folder = write(tmp_path / "pi0", SHIPPED / "mini" / "tokenizer.json")
    assert cli.main(["inspect", str(folder), "--set", "policy.embodiment.cameras=[third_person=base,wrist=wrist]"]) == 0
    assert "pi0, checkpoint 'pi0'" in capsys.readouterr().out


def test_inspect_reads_headers_and_tells_what_matters(oft_folder, capsys, monkeypatch):
    folder, _ = oft_folder
    monkeypatch.setattr(torch.Tensor, "isfinite", None)  # whoever looks at a number fails
    assert cli.main(["inspect", str(folder), "--set", "policy.embodiment.chunk=3"]) == 0
    told = capsys.readouterr().out
    named = ("openvla-oft", "third_person -> slot primary", "joint targets", "-0.20..0.60")
    for text in (*named, "lm.heads", "refresh dense", "bfloat16: weights", "kept 0 MiB"):
        assert text in told, text


@pytest.mark.parametrize(
    "extra, told", [("policy.fastv=0.5", "tokens leave after layer 1"), ("policy.vla_cache=[0.5]", "layers reuse")]
)
def test_inspect_counts_what_fewer_vision_tokens_cost(oft_folder, tmp_path, capsys, extra, told):
    command = ["inspect", str(oft_folder[0]), "--set", "policy.embodiment.chunk=3", "--set", "policy.fastv_layer=1"]
    assert cli.main([*command, "--json", str(tmp_path / "a.json")]) == 0
    assert cli.main([*command, "--set", extra, "--json", str(tmp_path / "b.json")]) == 0
    assert told in capsys.readouterr().out
    whole, fewer = (json.loads((tmp_path / n).read_text())["rows"] for n in ("a.json", "b.json"))
    assert all(b["prefill_gmac"] < a["prefill_gmac"] for a, b in zip(whole, fewer))
    assert all(b["vision_gmac"] == a["vision_gmac"] for a, b in zip(whole, fewer))


@pytest.mark.parametrize("extra, told", [([], "gen3, bridge"), (["--set", "policy.embodiment.statistics=x"], "gen3")])
def test_inspect_says_in_one_line_what_is_wrong(oft_folder, capsys, extra, told):
    arguments = ["inspect", str(oft_folder[0]), "--config", "mini_sim.yaml", *extra]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and told in said


def test_what_is_no_checkpoint_is_no_family(tmp_path):
    with pytest.raises(CheckpointError, match="has no config.json: found: nothing"):
        build.family_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="pi05.*openvla-oft"):
        build.family_of(tmp_path)
