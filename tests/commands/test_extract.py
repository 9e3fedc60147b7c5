"""`captioner extract`: the engines and what each of them takes."""

import sys

import pytest
from conftest import run_command, small_params

from pipeline.errors import ParamsError


@pytest.mark.parametrize(
    "option",
    [("--address", "auto"), ("--manifest", "x.csv"), ("--out", "folder"), ("--shard-pictures", "10")],
    ids=lambda option: option[0],
)
def test_options_of_ray_are_refused_by_the_local_engine(project, option):
    code, out, said = run_command("extract", *option, cwd=project)
    assert (code, out, said) == (2, "", f"error: {option[0]}: only with --engine ray\n")


def test_an_unknown_engine_is_refused(project):
    code, _, said = run_command("extract", "--engine", "spark", cwd=project)
    assert code == 2
    assert "spark" in said
    assert "ray" in said


def test_without_ray_the_extra_is_named(project, monkeypatch):
    from pipeline.stages.extract_on_ray import extract_on_ray

    for name in ("encoding", "joining", "steps"):
        monkeypatch.delitem(sys.modules, f"pipeline.features.cluster.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    params = small_params()
    with pytest.raises(ParamsError, match=r"--engine ray: .*pip install 'captioner\[ray\]'"):
        extract_on_ray(
            params.encoder,
            params.run,
            seed=params.seed,
            max_skipped=0.0,
            manifest=project / "images.csv",
            skipped=None,
            features_out=project / "features.h5",
            encoder_out=project / "encoder.safetensors",
            skipped_out=project / "skipped.csv",
        )
    assert not (project / "features.h5").exists()


@pytest.mark.slow
def test_an_address_where_no_cluster_answers_is_refused(project):
    pytest.importorskip("ray", reason="extraction on a cluster needs the extra `ray`")
    code, _, said = run_command("extract", "--engine", "ray", "--address", "127.0.0.1:1", cwd=project)
    assert code == 2, said
    assert "error: --address 127.0.0.1:1: no Ray cluster to work on" in said
