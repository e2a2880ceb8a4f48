"""What the papers' own recipes cost, on made-up data of the real layout and size: `python benchmarks/rehearsal.py FOLDER [network ...]`.

Writes the data sets that are missing in FOLDER (15 GB for all), trains each network by its recipe `paper` for a stated number
of steps, counts the operations and the memory of one step, and puts one row per network into data/rehearsal.csv.
The page nbs/do/reproduce turns the rows into hours.
"""
import resource, subprocess, sys, tempfile, time
from dataclasses import replace
from pathlib import Path
import pandas as pd, torch
from pansharp_nb import recipes
from pansharp_nb.data.patches import Batches
from pansharp_nb.data.rehearsal import layouts, rehearse
from torch.utils.flop_counter import FlopCounterMode

out = Path(__file__).parents[1]/'data'/'rehearsal.csv'
plan = { # network: data sets, bands
    'PreMix-B': (('NBU-GF1',), (4,)), 'PreMix-H': (('NBU-GF1',), (4,)), 'MFMIF-Net': (('PanCollection-GF2',), (4,)),
    'DCFNet': (('PanCollection-WV3',), (8,)), 'SIDP': (('NBU-GF1',), (4,)), 'SUM-DUN': (('NBU-GF1', 'NBU-WV2'), (4, 8))}

def folder_of(name, root): # made once
    k = layouts[name]
    at = root/'NBU'/k.place if k.kind=='nbu' else root/'PanCollection'/k.place
    t = time.time()
    if not at.exists(): rehearse(name, root/'NBU' if k.kind=='nbu' else at)
    return at, time.time()-t

def files_of(at): return [at] if (at/'MS_256').is_dir() else sorted(at.glob('[tv][ra]*.h5'))

def one_step(task, b): # loss and gradients; bytes that are kept between the two
    seen = {}
    def keep(t):
        if not isinstance(t, torch.nn.Parameter): seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t): loss = task.training_step(b, 0)
    kept = sum(seen.values())
    loss.backward()
    return kept

def counted(name, q, groups, texts): # of one sample: operations, bytes kept; of the network: parameters
    from pansharp_nb.training import Task
    task = Task(name, q, 100, 100)
    task.log = lambda *a, **kw: None
    cuts = [Batches(groups, 9, n, q.patch, q.protocol, q.scaling, texts=texts, how=q.wald)[len(groups)-1] for n in (1, 2)]
    with FlopCounterMode(display=False) as c: a = one_step(task, cuts[0])
    b = one_step(task, cuts[1])
    return c.get_total_flops(), b-a, sum(p.numel() for p in task.net.parameters())

def row(name, root, budget=3e9, seconds=45): # bytes that a step may keep, seconds that the steps may take
    from pansharp_nb.training import Scenes, train
    data,bands = plan[name]
    made = [folder_of(d, root) for d in data]
    q = recipes.recipe(name, 'paper', bands=bands)
    files = [f for at,_ in made for f in files_of(at)]
    s = Scenes(files, q)
    flop,kept,params = counted(name, q, s.train, s.texts)
    batch = max(1, min(q.batch, int(budget//kept)))
    t = time.process_time()
    counted(name, q, s.train, s.texts)
    each = (time.process_time()-t)/3*batch
    steps = max(2, min(s.per_epoch, int(seconds//each)))
    if len(bands)>1: steps += steps%2
    t = time.process_time()
    with tempfile.TemporaryDirectory() as d:
        quiet = dict(save_every=steps, accelerator='cpu', devices=1, progress=False, validate=False)
        _,_,clock = train(name, replace(q, epochs=0, steps=steps, batch=batch), files, Path(d)/'run', **quiet)
    gb = sum(f.stat().st_size for at,_ in made for f in at.rglob('*') if f.is_file())/1e9
    return dict(network=name, data=' + '.join(data), disk_GB=round(gb, 2), samples=sum(map(len, s.train)), batch=q.batch, patch=q.patch,
        epochs=q.epochs, steps_per_epoch=s.per_epoch, parameters=params, teraflop_per_step=round(flop*q.batch/1e12, 3),
        kept_GB_per_step=round(kept*q.batch/1e9, 2), run_steps=steps, run_batch=batch, cpu_seconds_per_step=round((time.process_time()-t)/steps, 1),
        peak_GB=round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024)/1e9, 2), torch=torch.__version__)

def main(root, *names, **how): # how: of `row`
    "Each network in a process of its own, so that its peak of memory is its own."
    if len(names)!=1:
        for n in names or plan: subprocess.run([sys.executable, __file__, root, n], check=True)
        return
    had = pd.read_csv(out).to_dict('records') if out.exists() else []
    rows = {r['network']: r for r in had} | {names[0]: row(names[0], Path(root), **how)}
    new = pd.DataFrame([rows[n] for n in plan if n in rows])
    new.to_csv(out, index=False)
    print(new.to_string())

if __name__=='__main__': main(*sys.argv[1:])
