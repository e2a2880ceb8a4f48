"""A training step in 32 bits against one in 16 with channels-last: `python benchmarks/training.py [network ...]`.

The step is that of `training`: network, loss and optimiser of the recipe `board`, its batch and patch, on two made-up
scenes; the two forms take turns, both must start from the same loss, and the rate is so small that they stay there.
Without `avx512_bf16` or `amx_bf16` 16 bits are emulated, and only 32 are timed. Before them: what a batch costs to cut.
"""
import tempfile, warnings
from dataclasses import replace
from pathlib import Path
from race import clock, go, race, show
import numpy as np, torch
from pansharp_nb import recipes
from pansharp_nb.data.patches import Batches, grounds
from pansharp_nb.data.scenes import save_scene
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.models.networks import five
from pansharp_nb.training import Task, _channels_last

warnings.filterwarnings('ignore', '.*self.log') # nobody listens here

def native():
    "Does this processor multiply in bfloat16?"
    try: words = Path('/proc/cpuinfo').read_text('utf-8').split()
    except OSError: return False
    return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(words)

def step(name, q, b, half): # one step, returns the loss
    torch.manual_seed(0)
    task = Task(name, q, 100, 100)
    if half: _channels_last(task.net)
    opt = task.configure_optimizers()['optimizer']
    def f():
        with torch.autocast('cpu', torch.bfloat16, enabled=half): loss = task.training_step(b, 0)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()
    return f

def row(name, q, gs, half, rounds):
    b = Batches([gs], 1, q.batch, q.patch, q.protocol, q.scaling, how=q.wald)[0]
    what,full = f'{name}, {q.batch} x {q.patch} px',step(name, q, b, False)
    if half:
        r = race(what, full, step(name, q, b, True), .05, goals.get(name, np.nan), rounds)
        return dict(name=what, fp32_per_s=1e3/r.pop('peer_ms'), bf16_per_s=1e3/r.pop('ours_ms')) | r
    full()
    return dict(name=what, fp32_per_s=1e3/np.median([clock(full) for _ in range(rounds)]), said='')

goals = {'PreMix-B': 2, 'FusionNet': 2}

def main(*names, rounds=3, n=256, **sizes): # sizes: of the recipe
    folder = Path(tempfile.mkdtemp())
    for i,s in enumerate(('QB', 'IKONOS')): save_scene(made_up(s, n, i).assign_attrs(split='train'), folder/f'{s}.nc')
    gs,half = grounds(folder),native()
    cut = Batches([gs], 1000, 16, min(64, n//2), scaling='gs')
    for t in range(40): cut[t]
    print(f'a batch of 16 patches: {np.median([clock(lambda: cut[t]) for t in range(40)]):.1f} ms to cut')
    if not half: print('this processor has neither avx512_bf16 nor amx_bf16: 16 bits are skipped')
    rows = [row(m, replace(recipes.recipe(m, 'board'), lr=1e-6, **sizes), gs, half, rounds) for m in names or [*five, 'FusionNet', 'PanNet']]
    return show(rows, 'training steps a second, recipe board')

if __name__=='__main__': go(main)
