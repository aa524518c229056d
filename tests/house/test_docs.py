"""Documentation that cannot rot: commands, fields, links, configs and promises are checked against the code."""

import ast
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml

from pipelines.cli.app import app
from pipelines.config import JobConfig
from pipelines.job_file import load_job, parse_job
from pipelines.rows import REASONS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "infra").glob("*.md")])
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
MANIFESTS = sorted((ROOT / "infra").glob("*.yaml"))
GROUP = typer.main.get_command(app)


def text(path):
    return path.read_text(encoding="utf-8")


def named(path):
    return str(path.relative_to(ROOT))


def shell_lines(page):
    """The commands of all ```sh blocks: comments cut off, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", raw).strip() for raw in lines) if line]


def commands(line):
    """The words of each simple command of a shell line, redirections left out."""
    return [shlex.split(part) for part in re.split(r"&&|\|\||[;|]|(?<!\S)\d?>>?(?!\S)", line)]


def called(line):
    """The arguments of each vectormill call in a shell line."""
    for words in commands(line):
        at = next((n for n, word in enumerate(words) if re.fullmatch(r"(.*/bin/)?vectormill", word)), None)
        if at is not None:
            yield words[at + 1 :]


def parse(arguments):
    """Parse as the program would, without running anything. Raises a usage error for what does not exist."""
    if arguments and arguments[0].startswith("-"):
        assert arguments[0] in ("--help", "--version"), arguments
        return
    assert set(arguments[:1]) & set(GROUP.commands), f"there is no command {arguments}"
    GROUP.commands[arguments[0]].make_context(arguments[0], arguments[1:])
    job = next((word for word in arguments if word.endswith(".yaml") and not word.startswith("/")), None)
    if job:
        overrides = [after for word, after in pairwise(arguments) if word == "--set"]
        load_job(ROOT / job, overrides)


# ---------------------------------------------------------------------- generated references


@pytest.mark.parametrize("name", GROUP.commands)
def test_each_command_has_an_example_that_parses_and_is_in_the_reference(name):
    help_ = " ".join((GROUP.commands[name].help or "").split())
    example = re.search(rf"Example: (vectormill {name} .*)", help_)
    assert example, f"{name} --help has no example"
    for arguments in called(example[1]):
        parse(arguments)
    assert f"## vectormill {name}\n" in text(ROOT / "docs" / "reference-cli.md")


@pytest.mark.parametrize("environment", [{}, {"COLUMNS": "200", "AWS_ENDPOINT_URL": "http://x", "AWS_REGION": "r"}])
def test_generated_files_are_up_to_date_everywhere(environment):
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_stale_files_are_named(tmp_path, monkeypatch):
    """The check that the other test leans on does see a difference."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "configs").mkdir()
    copy = tmp_path / "docs" / "generate.py"
    copy.write_text(text(ROOT / "docs" / "generate.py"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(copy)]
    checked = subprocess.run([*command, "--check"], env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "docs/reference-config.md" in checked.stderr
    assert not list(tmp_path.glob("docs/*.md")), "--check writes nothing"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert subprocess.run([*command, "--check"], env=environment, check=False).returncode == 0


def test_every_field_has_a_description():
    schema = JobConfig.model_json_schema()
    sections = {name: facts["properties"] for name, facts in schema["$defs"].items()}
    fields = {f"{section}.{name}": facts for section, all_ in sections.items() for name, facts in all_.items()}
    bare = [name for name, facts in fields.items() if not facts.get("description")]
    assert len(sections) == 7  # ReplicaRange is a field of its own
    assert not bare


# ---------------------------------------------------------------------- configs and manifests


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_configs_load(path):
    load_job(path)


def test_a_job_for_each_size_and_place():
    names = {path.stem for path in CONFIGS}
    assert names >= {"demo", "qwen3-0.6b", "qwen3-4b", "qwen3-8b", "s3", "nightly"}


@pytest.mark.parametrize("path", MANIFESTS, ids=named)
def test_manifests_parse_and_their_commands_exist(path):
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(text(path)))
    calls = re.findall(r"vectormill (?:embed|verify|optimize)[^'\"#\n]*", text(path))
    assert calls
    for call in calls:
        parse(shlex.split(call)[1:])


def test_rayjob_runs_a_valid_job_on_the_gpus_it_starts():
    config, job = yaml.safe_load_all(text(ROOT / "infra" / "rayjob.yaml"))
    spec = job["spec"]
    workers = spec["rayClusterSpec"]["workerGroupSpecs"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    embedded = parse_job(yaml.safe_load(config["data"]["job.yaml"]))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert embedded.run.address == "auto"
    assert embedded.model.dtype != "auto", "the head has no GPU"
    gpus = [int(w["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) for w in workers]
    assert embedded.run.replicas == sum(w["replicas"] * g for w, g in zip(workers, gpus, strict=True))
    assert all(w["replicas"] == w["minReplicas"] for w in workers)
    _, _, file = spec["entrypoint"].split()[:3]
    assert head["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
    assert file == f"{head['containers'][0]['volumeMounts'][0]['mountPath']}/job.yaml"
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}\n" in text(ROOT / "constraints.txt")


def test_ray_cluster_has_the_gpus_of_its_job():
    cluster = yaml.safe_load(text(ROOT / "infra" / "ray-cluster.yaml"))
    types = cluster["available_node_types"]
    spot = [t for t in types.values() if t["node_config"].get("InstanceMarketOptions") == {"MarketType": "spot"}]
    assert sum(t["min_workers"] for t in spot) == load_job(ROOT / "configs" / "s3.yaml").run.replicas
    assert cluster["head_node_type"] in types


def test_cron_lines_parse():
    lines = [line for line in text(ROOT / "infra" / "nightly.cron").splitlines() if re.match(r"[\d*]", line)]
    calls = [call for line in lines for call in called(line.split(None, 5)[5])]
    assert [call[0] for call in calls] == ["embed", "verify", "optimize"]
    for call in calls:
        parse(call)


# ---------------------------------------------------------------------- pages


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_relative_links_lead_somewhere(path):
    prose = re.sub(r"^```.*?^```", "", text(path), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text(found), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}: {found.name} has no such heading"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_shell_commands_exist(path):
    makefile = text(ROOT / "Makefile")
    for line in shell_lines(text(path)):
        for words in commands(line):
            targets = [word for word in words[1:] if "=" not in word] if words[:1] == ["make"] else []
            for target in targets:
                assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"make {target}"
        for arguments in called(line):
            parse(arguments)


def test_the_readme_names_all_commands():
    calls = {arguments[0] for line in shell_lines(text(README)) for arguments in called(line)}
    assert calls >= set(GROUP.commands) - {"schema"}


def promised(page):
    """The test names of a page."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text(page))


GUARANTEES = ROOT / "docs" / "guarantees.md"


@pytest.mark.parametrize(("page", "least"), [(README, 5), (GUARANTEES, 90)], ids=["readme", "guarantees"])
def test_promises_name_tests_that_exist(page, least):
    assert len(promised(page)) >= least
    for file, name in promised(page):
        functions = [node.name for node in ast.walk(ast.parse(text(ROOT / file))) if isinstance(node, ast.FunctionDef)]
        assert name in functions, f"{file} has no test {name}"


def promises(page):
    """The lines of its tables of promises."""
    for table in page.split("| promise |")[1:]:
        yield from table.partition("\n\n")[0].splitlines()[2:]


def test_every_promise_has_a_test():
    lines = [line for page in (README, GUARANTEES) for line in promises(text(page))]
    assert len(lines) > 60
    for line in lines:
        assert "`tests/" in line, line


def test_nothing_is_left_to_fill_in():
    left = [f"{path.name}: {found}" for path in PAGES for found in re.findall(r"TODO\([^)]*\)", text(path))]
    assert not left


def test_every_reason_is_explained():
    page = text(ROOT / "docs" / "operations.md")
    assert all(f"`{reason}`" in page for reason in REASONS)


def test_examples_of_jobs_in_the_pages_are_valid():
    """```yaml blocks that begin with `corpus:` are whole job files."""
    found = [
        block
        for path in PAGES
        for block in re.findall(r"^```yaml\n(corpus:.*?)^```", text(path), re.DOTALL | re.MULTILINE)
    ]
    assert found
    for block in found:
        parse_job(yaml.safe_load(block))
