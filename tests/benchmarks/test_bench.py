"""`python -m benchmarks.model`: what its numbers mean. Sizes are tiny, so the speeds mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from actors import packed
from actors.network.network import EncoderNetwork, TransformersNetwork
from actors.network.qwen3_weights import Weights
from actors.tokenizer.text import Encoded
from benchmarks.model import ceiling, measure, padded, peers, subjects, texts
from benchmarks.model.__main__ import main
from benchmarks.model.ceiling import Ceiling
from benchmarks.model.flops import Shape
from benchmarks.model.measure import Done, Way
from benchmarks.model.options import Options
from benchmarks.model.ours import Ours
from benchmarks.model.report import table, utilisation
from benchmarks.model.run import _load, _work, run
from benchmarks.model.subjects import PATHS, Wanted

ROOT = Path(__file__).parents[2]
torch.set_num_threads(1)
CEILINGS = [Ceiling("float32", 8, burst=2e9, sustained=1e9, sustained_seconds=1.0)]


def small(**given):
    return Options(**{"model": "tiny", "tokens": 900, "dtype": "float32", "device": "cpu", "threads": 1} | given)


def encoded_of(lengths, vocabulary=500):
    lengths = np.array(lengths)
    ids = np.random.default_rng(0).integers(3, vocabulary, int(lengths.sum())).astype(np.int32)
    return Encoded(ids, packed.offsets_of(lengths), np.zeros(len(lengths), dtype=bool))


# ---------------------------------------------------------------------- the whole command


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "report.json"
    arguments = "--model tiny --tokens 1500 --dtype float32 --device cpu --threads 1 --rounds 2 --price 7.2"
    found = main(
        [*arguments.split(), "--peers", "st,st-best,transformers", "--ceiling-seconds", "0.01", "--json", str(file)]
    )
    assert json.loads(file.read_text()) == json.loads(json.dumps(found))
    return found


def test_one_command_measures_ours_and_the_peers(report):
    assert set(report["ours"]) == {"from_ids", "from_texts"}
    assert set(report["peers"]) == {"st", "st-best", "transformers"}
    assert report["weights"] == "random"
    for found in [*report["ours"].values(), *report["peers"].values()]:
        assert len(found["seconds_of_rounds"]) == 2
        assert found["peak_memory_gb"] > 0.05
    assert {"date", "cpu", "cores", "versions", "load_before"} <= set(report["machine"])
    assert {"torch", "transformers", "sentence-transformers"} <= set(report["machine"]["versions"])


def test_its_numbers_fit_together(report):
    work, rate = report["work"], report["ceilings"][0]
    for found in [*report["ours"].values(), *report["peers"].values()]:
        assert found["tokens_per_second"] == pytest.approx(work["tokens"] / found["seconds"], rel=0.01)
        assert found["documents_per_second"] == pytest.approx(work["documents"] / found["seconds"], rel=0.01)
        # 7.2 an hour is 0.002 a second
        assert found["cost_per_1e9_tokens"] == pytest.approx(0.002 * 1e9 / found["tokens_per_second"], rel=0.01)
        flops = report["flops"]["useful"] / found["seconds"]
        assert found["of_float32_burst"] == pytest.approx(flops / 1e12 / rate["burst_tflops"], rel=0.1)
        assert found["of_float32_sustained"] == pytest.approx(flops / 1e12 / rate["sustained_tflops"], rel=0.1)
    for found in report["ours"].values():
        assert found["padding_efficiency"] == 1.0
        stages = found["stages"]
        assert stages["device"] + stages["rest"] == pytest.approx(found["seconds"], rel=0.3)


def test_peers_have_our_vectors_and_pay_for_their_padding(report):
    for found in report["peers"].values():
        assert found["least_cosine"] > 0.999999
        assert 0.1 < found["padding_efficiency"] < 0.95
    assert set(report["peers"]["st-best"]["settings"]["texts_per_second_tried"]) == {
        "sdpa, padded, 32", "sdpa, padded, 128", "sdpa, padded, 256"
    }  # fmt: skip


def test_a_batch_of_32_is_padded_to_its_longest(report):
    """15 texts or so: sentence-transformers makes one batch of them, and its padding is known."""
    work = report["work"]
    assert work["documents"] <= 32
    whole = work["tokens"] / (work["documents"] * work["most"])
    assert report["peers"]["st"]["padding_efficiency"] == pytest.approx(whole, abs=1e-3)


def test_a_peer_that_does_not_run_costs_its_own_number(monkeypatch):
    """Whatever another project raises: ours, and the other peers, are measured."""

    def raises(*_, **__):
        raise AttributeError("another version of transformers")

    monkeypatch.setattr(peers.SentenceTransformers, "__init__", raises)
    found = run(small(rounds=1, peers=("st", "transformers")), CEILINGS)
    assert set(found["peers"]) == {"transformers"}
    assert found["failed"] == {"st": "AttributeError: another version of transformers"}
    assert "st: does not run here, AttributeError" in table(found)


def test_a_peer_with_other_weights_shows(monkeypatch):
    load = subjects.load

    def spoilt(*arguments):
        subject = load(*arguments)
        model = subject.peer_model()
        model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(-model.layers[0].mlp.down_proj.weight.detach())
        subject.peer_model = lambda: model
        return subject

    monkeypatch.setattr(subjects, "load", spoilt)
    found = run(small(rounds=1, peers=("transformers",)), CEILINGS)
    assert found["peers"]["transformers"]["least_cosine"] < 0.999


def test_real_weights_and_real_words():
    found = run(small(model="bundled", tokens=700, rounds=1, peers=("transformers", "st")), CEILINGS)
    wanted = texts.lengths(texts.MIXES["short"], 700, 2, 0).sum()
    assert found["weights"] == "real"
    assert 0.95 * wanted < found["work"]["tokens"] <= wanted  # a text ends with a whole word
    assert found["peers"]["transformers"]["least_cosine"] > 0.999999
    assert found["peers"]["st"]["least_cosine"] > 0.999999


def test_runs_without_the_pipeline_and_without_sentence_transformers():
    blocked = ["ray", "lance", "lancedb", "pydantic", "pipelines", "sentence_transformers"]
    code = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "from benchmarks.model.__main__ import main\n"
        "main('--model tiny --tokens 300 --rounds 1 --device cpu --threads 1 --dtype float32 "
        "--peers transformers --ceiling-seconds 0.01'.split())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["peers"]["transformers"]["least_cosine"] > 0.999999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "vllm"], "there is no peer 'vllm' for --task embed"),
        (["--task", "rerank", "--peers", "st"], "there is no peer 'st' for --task rerank"),
        (["--task", "rerank", "--model", "minilm"], "takes a Qwen3"),
        (["--model", "./nowhere"], "there is no such folder"),
        (["--model", "minilm", "--dtype", "float8", "--device", "cpu"], "float8 is for Qwen3"),
        (["--rounds", "0"], "must be at least 1"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(arguments)


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize("model", ["tiny", "minilm"])
def test_random_weights_are_never_zeros(tmp_path, model):
    subject = subjects.load(Wanted(model, "cpu", "float32"), tmp_path)
    for name, parameter in subject.peer_model().named_parameters():
        values = parameter.detach()
        assert values.std() > 0.01, name
        assert (values == 0).float().mean() < 1e-3, name


@pytest.mark.parametrize(("model", "parameters"), [("0.6B", 595_776_512), ("4B", 4_021_774_336), ("8B", 7_567_295_488)])
def test_true_sizes(tmp_path, model, parameters):
    """The parameter counts of the published weights."""
    weights = Weights(subjects.Geometry.of(subjects.RANDOM[model]), "meta", "bfloat16")
    assert sum(tensor.numel() for tensor in weights.tensors().values()) == parameters


def test_the_peers_model_has_the_same_memory(tmp_path):
    subject = subjects.load(Wanted("tiny", "cpu", "float32"), tmp_path)
    peer, weights = subject.peer_model(), subject.network._weights
    assert peer.layers[1].self_attn.q_proj.weight.data_ptr() == weights.layers[1].qkv.weight.data_ptr()


def test_8_bits_is_compared_with_what_the_weights_were(tmp_path):
    found = run(small(dtype="float8", rounds=1, peers=("transformers",)), CEILINGS)
    assert 0.99 < found["peers"]["transformers"]["least_cosine"] < 0.99999


def test_the_generic_path_is_another_one_to_the_same_vectors():
    found = run(small(path="generic", rounds=1, peers=("transformers",)), CEILINGS)
    assert found["peers"]["transformers"]["least_cosine"] > 0.999999
    assert found["settings"]["path"] == "generic"


@pytest.mark.parametrize("model", ["minilm", "bundled"])
def test_encoders_have_both_paths(tmp_path, model):
    wanted = [Wanted(model, "cpu", "float32", path=path) for path in PATHS]
    kinds = [type(subjects.load(one, tmp_path).network) for one in wanted]
    assert kinds == [EncoderNetwork if model == "minilm" else type(None), TransformersNetwork]


# ---------------------------------------------------------------------- texts


@pytest.mark.parametrize("name", texts.MIXES)
def test_the_mixes_have_their_means(name):
    mix = texts.MIXES[name]
    found = texts.lengths(mix, 400 * mix.mean, 1, seed=3)
    assert len(found) == 400
    assert found.mean() == pytest.approx(mix.mean, rel=0.02)
    assert found.max() == mix.most
    assert 1 <= found.min() < mix.mean / 4
    assert np.median(found) < 0.85 * mix.mean  # log-normal: most texts are shorter than the mean


def test_lengths_depend_on_the_seed_alone():
    mix = texts.MIXES["short"]
    assert (texts.lengths(mix, 5000, 1, 1) == texts.lengths(mix, 5000, 1, 1)).all()
    assert (texts.lengths(mix, 5000, 1, 1) != texts.lengths(mix, 5000, 1, 2)).any()


@pytest.mark.parametrize(("model", "around"), [("tiny", 1), ("minilm", 2)])
def test_made_up_words_are_one_token_each(tmp_path, model, around):
    options = small(model=model, tokens=3000)
    subject, spec = _load(options, tmp_path)
    work = _work(options, subject, Ours(subject, spec).tokenizer)
    wanted = texts.lengths(texts.MIXES["short"], 3000, around, 0)
    assert work.lengths.tolist() == wanted.tolist()
    assert len(set(work.encoded.ids.tolist())) > 200
    unknown = 1
    assert unknown not in work.encoded.ids


def test_characters_do_not_tell_the_tokens():
    """sentence-transformers sorts by characters; on real text they differ by 13 % a token."""
    lengths = np.full(400, 100)
    characters = np.array([len(text) for text in texts.made_up(lengths, 20000, 0)])
    assert characters.std() / characters.mean() == pytest.approx(0.12, abs=0.02)


# ---------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("model", "linear", "attention", "saved"),
    [
        ("0.6B", 0.881e9, 0.1147e6, 0.0310),
        ("4B", 7.267e9, 0.2949e6, 0.0263),
        ("8B", 13.892e9, 0.2949e6, 0.0266),
        ("minilm", 0.0213e9, 9.2e3, None),
        ("bert-base", 0.170e9, 36.9e3, None),
    ],
)
def test_flops_of_the_known_models(model, linear, attention, saved):
    """Against figures computed by hand from the published sizes."""
    shape = Shape.of(subjects.RANDOM[model])
    assert shape.linear == pytest.approx(linear, rel=5e-3)
    length = 1000
    of_attention = shape.useful(np.array([length])) - shape.linear * length
    pairs = (length + 1) if shape.causal else length
    assert of_attention / length / pairs == pytest.approx(attention, rel=5e-3)
    if saved is not None:
        assert shape.saved_by_last_token(np.array([128])) / shape.useful(np.array([128])) == pytest.approx(
            saved, rel=0.02
        )


def test_flops_are_counted_text_by_text():
    shape = Shape.of(subjects.RANDOM["minilm"])
    assert shape.useful(np.array([3, 5])) == shape.useful(np.array([3])) + shape.useful(np.array([5]))
    assert shape.useful(np.array([8])) > shape.useful(np.array([4, 4]))


def test_flops_are_not_guessed():
    assert (
        Shape.of({"model_type": "modernbert", "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 8}) is None
    )


def test_utilisation_is_of_both_rates():
    found = utilisation(1e9, CEILINGS)
    assert found["of_float32_burst"] == 0.5
    assert found["of_float32_sustained"] == 1.0


def test_ceilings_are_of_the_dtype():
    found = ceiling.measure("cpu", "float32", 0.01, size=32)
    assert found.burst > 0
    assert found.sustained > 0
    assert ceiling.kinds("float8") == ("bfloat16", "float8")


# ---------------------------------------------------------------------- peers


def test_padded_batches_hold_the_token_budget():
    lengths = np.array([5, 9, 2, 2, 7, 30, 1])
    batches = padded.padded_batches(lengths, 18)
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))
    assert [lengths[rows].tolist() for rows in batches] == [[30], [9, 7], [5, 2, 2], [1]]
    computed = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert computed == 30 + 18 + 15 + 1


def test_padding_of_transformers_is_counted_as_it_was_computed(tmp_path):
    subject = subjects.load(Wanted("tiny", "cpu", "float32"), tmp_path)
    peer = padded.Sorted(subject, subject.peer_model(), 18)
    encoded = encoded_of([5, 9, 2, 2, 7, 30, 1])
    assert peer.run(encoded).computed_tokens == 64
    assert peer.run(encoded).computed_tokens == 64


def test_sentence_transformers_without_padding(tmp_path):
    """Its own padding-free way over a stand-in for flash-attn: the same vectors, and no token more than there are."""
    options = small(tokens=2000)
    subject, spec = _load(options, tmp_path)
    model = subject.peer_model()
    ours = Ours(subject, spec)
    work = _work(options, subject, ours.tokenizer)
    (tmp_path / "st").mkdir()
    other = peers.SentenceTransformers(subject, model, ours.tokenizer.max_tokens, tmp_path / "st")
    with other.unpadded(installed=False):
        unpadded = other.run(work.texts)
    assert unpadded.computed_tokens == work.lengths.sum()
    assert measure.cosines(unpadded.vectors, ours.from_ids(work.encoded).vectors)[0] > 0.999999
    with_padding = other.run(work.texts)
    assert with_padding.computed_tokens > 1.5 * unpadded.computed_tokens
    assert np.abs(with_padding.vectors - unpadded.vectors).max() < 1e-5


def test_padding_free_needs_cuda_and_half_precision():
    assert peers.padding_free(torch.device("cpu"), torch.bfloat16) is None
    assert peers.padding_free(torch.device("cuda"), torch.float32) is None
    assert peers.padding_free(torch.device("cuda"), torch.bfloat16).startswith("padding-free")


# ---------------------------------------------------------------------- rounds


def test_rounds_take_turns_and_the_ratio_is_within_a_round():
    log = []

    def way(name):
        def run():
            log.append(name)
            return Done(np.ones((1, 2), dtype=np.float32), 1)

        return Way(name, run, lambda: log.append(f"warm {name}"))

    found = measure.rounds([way("a"), way("b")], 3, "cpu")
    assert log == ["warm a", "warm b", "a", "b", "b", "a", "a", "b"]
    assert [done.vectors.size for done in found["a"]] == [0, 0, 2]  # only the last vectors are kept
    ours = [Done(np.zeros(1), 1, seconds=s) for s in (1.0, 2.0, 4.0)]
    other = [Done(np.zeros(1), 1, seconds=s) for s in (3.0, 4.0, 20.0)]
    assert measure.ratio(ours, other) == 3.0


def test_texts_are_embedded_in_their_order(tmp_path):
    options = small(tokens=3000, token_budget=128)
    subject, spec = _load(options, tmp_path)
    ours = Ours(subject, spec)
    work = _work(options, subject, ours.tokenizer)
    assert len(ours._blocks(work.texts)) > 2
    assert [text for block in ours._blocks(work.texts) for text in block] == work.texts
    assert np.abs(ours.from_texts(work.texts).vectors - ours.from_ids(work.encoded).vectors).max() < 1e-6


# ---------------------------------------------------------------------- rerank


@pytest.fixture(scope="module")
def reranked():
    arguments = (
        "--task rerank --model tiny --tokens 12000 --dtype float32 --device cpu --threads 1 --rounds 1 "
        "--peers card,cross-encoder"
    )
    return main(arguments.split())


def test_rerankers_agree(reranked):
    others = [reranked["ours"]["whole"], *reranked["peers"].values()]
    assert len(others) == 3
    for found in others:
        assert found["largest_logit_difference"] < 1e-5 < found["spread_of_logits"] / 1000


def test_a_shared_query_is_computed_once(reranked):
    """64 documents a query, 82 of 210 tokens shared: 1.6 times fewer to compute."""
    assert reranked["ours"]["whole"]["padding_efficiency"] == 1.0
    assert 1.4 < reranked["ours"]["reuse"]["padding_efficiency"] < 1.7
    assert (
        reranked["peers"]["card"]["padding_efficiency"] < reranked["peers"]["cross-encoder"]["padding_efficiency"] < 1
    )
