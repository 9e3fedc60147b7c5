"""Nothing that a cold start leaves out is missed: each case in a process of its own, since modules load once."""

import subprocess
import sys

import pytest

BEGIN = """
import sys, torch
from pipeline.startup import without_compiler
layer = torch.nn.Linear(3, 3)
with without_compiler():
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert "triton" not in sys.modules and "torch._dynamo.eval_frame" not in sys.modules
"""
CASES = {
    "nothing is left behind": "assert 'torch._dynamo' not in sys.modules and '_dynamo' not in vars(torch)",
    "the optimizer goes on": "optimizer.zero_grad(); optimizer.step()",
    "the compiler is there afterwards": "torch.compile(layer, backend='eager')(torch.ones(1, 3))",
    "a part of it that is asked for within": "    import torch._dynamo.config as config; assert config.__file__",
    "what decorates is asked for within": "    assert torch.compiler.disable(recursive=False)(len) is len",
    "a name of it that is asked for within": "    from torch._dynamo import reset; reset()",
}


@pytest.mark.parametrize("case", CASES)
def test_optimizers_do_without_the_compiler(case):
    run = subprocess.run([sys.executable, "-c", BEGIN + CASES[case]], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
