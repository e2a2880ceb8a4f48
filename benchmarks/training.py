"""A training step of each network, and what a batch costs to cut: `python benchmarks/training.py [network ...]`.

Made-up scenes, 2 threads, batch 4 of 64 px, medians of interleaved steps. Says whether channels-last, or mixed precision in
16 bits, would help on this machine; the recipes keep 32 bits and the plain layout where they do not.
"""
import sys, tempfile
from functools import partial
from pathlib import Path
from race import clock
import numpy as np, pandas as pd, torch
from pansharp_nb import recipes
from pansharp_nb.data.patches import Batches, grounds
from pansharp_nb.data.scenes import save_scene
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.models.networks import build, five
from pansharp_nb.training import objectives

def step(net, opt, b, q, dtype):
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype=='bf16'): loss = objectives[q.loss](net, b, **q.loss_args)
    opt.zero_grad()
    loss.backward()
    opt.step()

def forms(name, b):
    "One row: plain, channels-last, bfloat16."
    q,out = recipes.recipe(name),{}
    for form in ('plain', 'channels last', 'bf16'):
        if form=='channels last' and name=='SUM-DUN': continue # 3D
        net = build(name, 4, **q.knobs)
        if form=='channels last': net = net.to(memory_format=torch.channels_last)
        out[form] = partial(step, net, torch.optim.AdamW(net.parameters(), 1e-4), b, q, form)
    t = pd.DataFrame([{k: clock(f) for k,f in out.items()} for _ in range(4)])[1:]
    return dict(network=name) | t.median().round().to_dict()

folder = Path(tempfile.mkdtemp())
for i,n in enumerate(('QB', 'IKONOS')): save_scene(made_up(n, 256, i).assign_attrs(split='train'), folder/f'{n}.nc')
cut = Batches([grounds(folder)], 1000, 16, 64, scaling='gs')
for t in range(40): cut[t]
print(f'a batch of 16 patches: {np.median([clock(lambda: cut[t]) for t in range(40)]):.1f} ms to cut\n')
b = Batches([grounds(folder)], 10, 4, 64, scaling='gs')[0]
b['sensor'] = grounds(folder)[0].sensor
print(pd.DataFrame([forms(n, b) for n in sys.argv[1:] or [*five, 'FusionNet']]).to_string(index=False))
