# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training
# > One loop for every network here, and it can be killed at any moment
#
# Lightning runs the loop: progress, logs, checkpoints, mixed precision, several processes and machines. What is ours is small: which loss reads which
# output of a network, batches that depend on nothing but seed and step, and a checkpoint that is either the old one or the new one, never half of each.

# %%
#| default_exp training

# %%
#| export
import contextlib, copy, difflib, json, logging, math, os, time, torch, warnings
warnings.filterwarnings('ignore', 'IProgress not found') # lightning imports tqdm.auto, whose advice would put a path of this machine into reports
import lightning.pytorch as L
from dataclasses import asdict
from functools import partial
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from pansharp_nb import __version__, losses
from pansharp_nb.data.patches import Batches, grounds, variant
from pansharp_nb.data.scenes import open_scene
from pansharp_nb.layers.sizes import upsample
from pansharp_nb.metrics.reference import ergas, psnr, sam
from pansharp_nb.models.baselines.ldpnet import ldp_loss
from pansharp_nb.models.networks import build, keep_pages, networks, start
from pansharp_nb.prompts import told
from pansharp_nb.recipes import Recipe
from pansharp_nb.settings import commit
from pansharp_nb.weights import save_weights
from pansharp_nb.writing import owned, stoppable, target, whole, write
from pathlib import Path
from torch.utils._pytree import tree_map

# %%
#| hide
import tempfile
from dataclasses import replace
from fastcore.test import *
from pansharp_nb import recipes
from pansharp_nb.data.scenes import save_scene
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.weights import load


# %% [markdown]
# ## What a network is told
# With a truth a loss compares; two papers look at an inner output too. Without one it asks what a camera would make of the result, or how it follows
# the PAN. Every entry takes the network and a batch.

# %%
#| export
def _two_scales(net, b, lam=4., norm='l2'):
    x,half = net(b['ms'], b['pan'], aux=True)
    if norm=='l2': return losses.two_scale_l2(x, half, b['gt'], lam)
    return _l12(x, b['gt']) + lam*losses.l1(half, losses.downsample(b['gt'], 2))

def _sidp(net, b, **kw):
    x,a = net(b['ms'], b['pan'], aux=True)
    return losses.sidp_loss(x, b['pan'], a['up'], a['gray'], **kw)


# %% [markdown]
# In Gram-Schmidt coordinates the first component is the gray image, and an angle between spectra means nothing: SIDP's loss goes back to digital numbers first.

# %%
#| export
def _sidp_dn(net, b, **kw):
    x,a = net(b['ms'], b['pan'], aux=True)
    s,peak = b['scale'],b['sensor'].peak
    gray = s.pan_back(a['up'][:, :1]).expand_as(x)
    return losses.sidp_loss(s.back(x)/peak, s.pan_back(b['pan'])/peak, s.back(a['up'])/peak, gray/peak, **kw)


# %% [markdown]
# The threshold of Z-PNN's structural term comes from the inputs, batch by batch.

# %%
#| export
def _blind(loss):
    def f(net, b, **kw):
        r = b['pan'].shape[-1]//b['ms'].shape[-1]
        t = losses.corr_threshold(upsample(b['ms'], r), b['pan'], b['sensor'], r)
        return loss(net(b['ms'], b['pan']), b['ms'], b['pan'], b['sensor'], t, r=r, **kw)
    return f

def _pgcu(net, b):
    x,a = net(b['ms'], b['pan'], aux=True)
    return losses.l2(x, b['gt']) + losses.l2(a['up'], b['gt'])

def _ldp(net, b):
    x,a = net(b['ms'], b['pan'], aux=True)
    return ldp_loss(x, b['ms'], b['pan'], a)


# %% [markdown]
# What is left only compares. `l12` sums both errors: absolute for the many small ones, squared for the few large ones that decide a PSNR.

# %%
#| export
def _plain(loss): return lambda net, b, **kw: loss(net(b['ms'], b['pan']), b['gt'], **kw)

def _l12(x, y, weight=20.): return losses.l1(x, y) + weight*losses.l2(x, y)

objectives = dict(l1=_plain(losses.l1), l2=_plain(losses.l2), l12=_plain(_l12), two_scale_l2=_two_scales, sidp=_sidp, sidp_dn=_sidp_dn,
    zpnn=_blind(losses.zpnn_loss), lambda_pnn=_blind(losses.lambda_pnn_loss), pgcu=_pgcu, ldp=_ldp)


# %% [markdown]
# ## The module
# Validation fuses the bottom strip of each scene and judges it in digital numbers by our own metrics. A loss that is not a number stops the run
# and names the patches that did it.

# %% [markdown]
# With `precision='bf16-mixed'` the convolutions of the network run in 16 bits and everything else in 32: the losses filter images, and a filter in 16 bits is another
# filter. On a CPU that has the instructions (`avx512_bf16`) and with its memory in channels-last order, a step takes half the time: FusionNet 174 ms in 32 bits,
# 156 with channels-last, 83 with both, PreMix-B 391, 359 and 193 (8 patches of 64 pixels, one thread). After 1,500 steps the two FusionNets are .09 dB apart.

# %%
#| export
def _mixed(net, device): # the network at the precision of the trainer, what it says in 32 bits
    on,kind = torch.is_autocast_enabled(device),torch.get_autocast_dtype(device)
    def f(*a, **kw):
        with torch.autocast(device, kind, enabled=on): x = net(*a, **kw)
        return tree_map(lambda t: t.float() if on and isinstance(t, torch.Tensor) else t, x)
    return f

def _channels_last(net):
    if not any(isinstance(m, torch.nn.Conv3d) for m in net.modules()): net.to(memory_format=torch.channels_last)


# %%
#| export
class Task(L.LightningModule):
    "A network, its recipe and nothing else."
    def __init__(self, model:str, recipe:Recipe, steps:int, per_epoch:int, ratio:int=4):
        super().__init__()
        self.net = build(model, recipe.bands[0], ratio, **recipe.knobs)
        self.recipe,self.steps,self.per_epoch = recipe,steps,per_epoch

    def told(self, b): # the network, with the batch's texts if there are any
        f = start(_mixed(self.net, self.device.type), self.recipe.scaling)
        return partial(f, t=b['t']) if 't' in b else f

    def training_step(self, b, _):
        torch.manual_seed(b['step'])
        f = self.told(b)
        with torch.autocast(self.device.type, enabled=False): loss = objectives[self.recipe.loss](f, b, **self.recipe.loss_args)
        if not loss.isfinite():
            where = '; '.join(b['where'][:4])
            raise FloatingPointError(f'the loss is {loss.item()} at step {b["step"]}: lower lr, or look at {where}')
        self.log('loss', loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, b, _):
        x = b['scale'].back(self.told(b)(b['ms'], b['pan']).float())
        said = dict(psnr=psnr(x, b['gt'], b['sensor'].peak), ergas=ergas(x, b['gt'], b['r']), sam=sam(x, b['gt']))
        self.log_dict({f'val_{k}': v.mean() for k,v in said.items()}, batch_size=1, sync_dist=True)

    def configure_optimizers(self):
        q,ps = self.recipe,self.net.parameters()
        if q.optimiser=='sgd': o = torch.optim.SGD(ps, q.lr, q.betas[0], weight_decay=q.decay)
        else: o = dict(adam=torch.optim.Adam, adamw=torch.optim.AdamW)[q.optimiser](ps, q.lr, q.betas, weight_decay=q.decay)
        s = torch.optim.lr_scheduler.LambdaLR(o, lambda t: rate(q, t, self.steps, self.per_epoch))
        return dict(optimizer=o, lr_scheduler=dict(scheduler=s, interval='step'))


# %% [markdown]
# The rate is a function of the step.

# %%
#| export
def rate(
    q:Recipe, t:int, # recipe, step
    steps:int,       # of the whole run
    per_epoch:int    # steps in an epoch
)->float:            # factor on `q.lr`
    "The learning-rate schedule."
    up = min(1, (t+1)/q.warmup) if q.warmup else 1
    if q.schedule=='cosine': return up*(q.floor + (1-q.floor)*(1+math.cos(math.pi*min(t/steps, 1)))/2)
    return up*(q.gamma**(t//per_epoch//q.every) if q.schedule=='step' else 1)


# %% [markdown]
# ## The data
# A loader starts where the run stands: batch $t$ is the same whether or not the process is.

# %%
#| export
class Scenes(L.LightningDataModule):
    "Training batches and validation strips of a folder of scenes."
    def __init__(self, scenes, recipe:Recipe, ratio:int=4, seed:int=0, without=(), tests=False):
        super().__init__()
        self.q,self.ratio,self.seed = recipe,ratio,seed
        def find(part, protocol, bands): return grounds(scenes, bands, ratio, protocol, part, without, tests=tests)
        self.train = [find('train', recipe.protocol, c) for c in recipe.bands]
        self.val = []
        for c in recipe.bands:
            with contextlib.suppress(ValueError): self.val += find('val', 'reduced', c) # a scene may be too small to keep a strip back
        used = {g.name: g for gs in (*self.train, self.val) for g in gs} if recipe.text else {}
        self.texts = told({n: open_scene(g.file, index=g.index) for n,g in used.items()}, recipe.text) if used else None
        self.per_epoch = max(1, sum(math.prod(g.shape) for gs in self.train for g in gs)//recipe.patch**2//recipe.batch)
        self.steps = recipe.steps or recipe.epochs*self.per_epoch

    def train_dataloader(self):
        q,t = self.q,self.trainer
        kind = q.protocol, q.scaling, q.augment, q.jitter
        b = Batches(self.train, self.steps, q.batch, q.patch, *kind, self.seed, t.global_rank, t.world_size, self.texts, q.wald)
        return torch.utils.data.DataLoader(b, batch_size=None, sampler=_From(t, self.steps))

    def transfer_batch_to_device(self, b, device, _): return {k: v.to(device) if hasattr(v, 'to') else v for k,v in b.items()}

    def val_dataloader(self): return torch.utils.data.DataLoader(_Strips(self.val, self.q, self.texts), batch_size=None)


# %% [markdown]
# Both helpers are ordinary data sets to Lightning.

# %%
#| export
class _From(torch.utils.data.Sampler):
    def __init__(self, trainer, steps): self.trainer,self.steps = trainer,steps
    def __len__(self): return self.steps
    def __iter__(self): return iter(range(self.trainer.global_step, self.steps))

class _Strips(torch.utils.data.Dataset):
    def __init__(self, gs, q, texts=None): self.gs,self.q,self.texts = gs,q,texts
    def __len__(self): return len(self.gs)
    def __getitem__(self, i):
        ms,pan,gt,c,s = variant(self.gs[i], scaling=self.q.scaling, how=self.q.wald)
        text = {'t': self.texts[self.gs[i].name][None]} if self.texts else {}
        return text | dict(ms=ms, pan=pan, gt=c.back(gt), scale=c, sensor=s, r=pan.shape[-1]//ms.shape[-1])


# %% [markdown]
# ## Checkpoints
# A checkpoint is written beside the old one and takes its name when it is complete, and on the disk. A full disk leaves the old one as it was.

# %%
#| export
class _Atomic(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        try:
            with whole(path) as part: torch.save(checkpoint, part)
        except (OSError, RuntimeError) as e: # torch says a full disk in its own words
            raise OSError(f'cannot write {path}: {e}; the checkpoint before it is whole: make room and go on with --resume') from None


# %% [markdown]
# The clock remembers how long a run has been at it and how validation went, over all its lives.

# %%
#| export
class _Clock(Callback):
    def __init__(self): self.seconds,self.curve = 0.,[]
    def on_train_start(self, *_): self.t = time.time()
    def on_train_batch_end(self, *_):
        self.seconds += time.time()-self.t
        self.t = time.time()
    def on_validation_end(self, t, _): self.curve.append([t.global_step, round(t.callback_metrics['val_psnr'].item(), 3)])
    def state_dict(self): return dict(seconds=self.seconds, curve=self.curve)
    def load_state_dict(self, d): self.seconds,self.curve = d['seconds'],d['curve']


# %% [markdown]
# ## A run
# A run owns a folder: its recipe, a CSV log for each of its lives, TensorBoard's log, `last.ckpt` and `best.ckpt`. A folder that holds a run is not written over.

# %%
#| export
def train(
    model:str,              # a network
    recipe:Recipe,
    scenes,                 # folder, or list of files
    out,                    # folder of the run, made if missing
    resume:bool=False,      # go on from `last.ckpt`
    ratio:int=4, seed:int=0,
    without=(),             # sensors or scenes to leave out
    save_every:int=100,     # steps
    accelerator:str='auto', devices='auto', nodes:int=1, precision:str='32-true',
    progress:bool=True, validate:bool=True,
    tests:bool=False        # learn from scenes of the split `test` too, as in `grounds`
)->tuple:                   # the network, the `Scenes`, the clock
    "Train, or go on training; raises `Stopped` when SIGINT or SIGTERM came."
    how = dict(accelerator=accelerator, devices=devices, nodes=nodes, precision=precision, progress=progress)
    with _mine(out): return _train(model, recipe, scenes, Path(out), resume, ratio, seed, without, save_every, validate, tests, how)

def _train(model, recipe, scenes, out, resume, ratio, seed, without, save_every, validate, tests, how):
    said = dict(model=model, recipe=asdict(recipe), ratio=ratio, seed=seed, without=list(without), tests=tests)
    last = _claim(out, json.loads(json.dumps(said)), resume)
    L.seed_everything(seed, verbose=False)
    keep_pages()
    data = Scenes(scenes, recipe, ratio, seed, without, tests)
    if not validate: data.val = []
    task,clock = Task(model, recipe, data.steps, data.per_epoch, ratio),_Clock()
    if last: _sound(last, task)
    if how['precision'].startswith('bf16') and how['accelerator']!='gpu': _channels_last(task.net)
    _fit(task, data, clock, out, last, min(save_every, data.steps), how)
    return task.net, data, clock


# %% [markdown]
# Lightning takes SIGTERM for the end of the training, and would leave weights of an hour where ten were asked for. `stoppable` does not; a weight that is no number ends the run
# as well, before it gets a name.

# %%
#| export
def _fit(task, data, clock, out, last, n, how):
    logging.getLogger('lightning.pytorch').setLevel(logging.WARNING)
    with warnings.catch_warnings(), stoppable():
        warnings.filterwarnings('ignore', _noise)
        trainer = _trainer(out, task.recipe, data, clock, n, **how)
        trainer.fit(task, data, ckpt_path=last, weights_only=True)
        if bad := _not_finite(task.net.state_dict()): raise FloatingPointError(f'{bad} of the trained network is not finite: lower lr; the checkpoints in {out} stay')
        trainer.save_checkpoint(out/'last.ckpt') # a run that is done resumes to nothing

def _not_finite(state): return next((k for k,v in state.items() if v.is_floating_point() and not v.isfinite().all()), None)

def _mine(out): # of several processes of one training the first holds the folder
    return contextlib.nullcontext() if rank_zero_only.rank else owned(out, 'another run')


# %% [markdown]
# Lightning warns of what is meant here: batches need no workers, and the loader does resume, by itself.

# %%
#| export
_noise = '.*(num_workers|TF32|val_dataloader|exists and is not empty|not resumable|dirpath has changed|logging interval|isinstance)'


# %% [markdown]
# A second run with other words in the same folder is refused: its checkpoints would lie.

# %%
#| export
def _claim(out, said, resume):
    last,words = target(out, folder=True)/'last.ckpt',out/'run.json'
    for p in (p for k in ('*.part', '.*.part') for p in out.glob(k)): p.unlink(missing_ok=True) # of a run that was killed
    if last.exists() and not resume: raise ValueError(f'{out} holds a run: go on with --resume, or choose another folder')
    if last.exists() and words.exists():
        try: was = dict(json.loads(words.read_text(encoding='utf-8')))
        except ValueError: raise ValueError(f'{words} is damaged: it says no more what was trained here; choose another folder') from None
        other = [k for k in said if was.get(k)!=said[k]]
        if other: raise ValueError(f'{out} was begun with another {other[0]}: resume with the same, or choose another folder')
    write(words, json.dumps(said, indent=1))
    return last if last.exists() else None

def _sound(ckpt, task): # can this training go on from there?
    try: state = torch.load(ckpt, map_location='cpu', weights_only=True)['state_dict']
    except Exception as e:
        raise ValueError(f'{ckpt} is empty or damaged ({type(e).__name__}): remove it and start again, or copy best.ckpt to its place') from None
    want = task.state_dict()
    if {k: v.shape for k,v in state.items()}!={k: v.shape for k,v in want.items()}: raise ValueError(f'{ckpt} is of another network: choose another folder')
    if bad := _not_finite(state): raise ValueError(f'{ckpt} holds values that are not finite ({bad}): remove it and start again with a lower lr')


# %% [markdown]
# Validation and a checkpoint go together. `last.ckpt` is the newest, `best.ckpt` the one with the highest PSNR on the strips.

# %%
#| export
def _trainer(out, q, data, clock, n, accelerator, devices, nodes, precision, progress): # n: steps between checkpoints
    keep = dict(dirpath=out, enable_version_counter=False)
    when = {} if data.val else dict(every_n_train_steps=n)
    calls = [clock, ModelCheckpoint(filename='last', **when, **keep)]
    if data.val: calls += [ModelCheckpoint(filename='best', monitor='val_psnr', mode='max', **keep)]
    if progress: calls += [TQDMProgressBar(refresh_rate=10)]
    logs = [CSVLogger(out, 'metrics'), TensorBoardLogger(out, 'tensorboard', '')]
    judged = dict(val_check_interval=n, check_val_every_n_epoch=None) if data.val else dict(limit_val_batches=0)
    where = dict(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=precision)
    shown = dict(enable_progress_bar=progress, enable_model_summary=False, log_every_n_steps=10 if data.steps>100 else 1)
    return L.Trainer(max_steps=data.steps, logger=logs, callbacks=calls, plugins=[_Atomic()], gradient_clip_val=q.clip or None,
        deterministic='warn', use_distributed_sampler=False, num_sanity_val_steps=0, **where, **judged, **shown)


# %% [markdown]
# ## What a run leaves
# Weights with their card, in the run's folder. The card says what the weights saw: every scene with its licence, every word of the recipe, the machine, the
# minutes, and how validation went.

# %%
#| export
def run(
    model, recipe:Recipe, scenes, out, resume=False, ratio=4, seed=0, without=(), save_every=100, # as in `train`
    accelerator='auto', devices='auto', nodes=1, precision='32-true',
    name:str='quick',  # of the recipe, for the card
    progress:bool=True, tests:bool=False
)->Path:               # of the weights; `None` in all but the first of several processes
    "Train, then write weights and card."
    how = dict(accelerator=accelerator, devices=devices, nodes=nodes, precision=precision, progress=progress)
    with _mine(out):
        net,data,clock = _train(model, recipe, scenes, Path(out), resume, ratio, seed, without, save_every, True, tests, how)
        return None if data.trainer.global_rank else _written(net, data, clock, model, recipe, Path(out), ratio, seed, without, precision, name)

def _written(net, data, clock, model, recipe, out, ratio, seed, without, precision, name): # weights and card
    bands = 'any' if model=='SUM-DUN' else recipe.bands[0]
    file = out/f'{model}-{bands}b-r{ratio}.safetensors'.replace('anyb', 'any')
    seen = [g for gs in data.train for g in gs]
    card = dict(name=model, bands=bands, ratio=ratio, scaling=recipe.scaling, knobs=recipe.knobs, recipe=name, words=asdict(recipe),
        steps=data.steps, seed=seed, without=list(without), minutes=round(clock.seconds/60, 1), machine=_machine(data.trainer),
        precision=precision, validation=clock.curve,
        data=sorted({(g.file.stem, g.licence) for g in seen}), sensors=sorted({g.sensor.name for g in seen}), package=__version__, commit=commit())
    cost = _cost_of_half(net, data)
    save_weights(file, net, card | dict(half_costs_db=round(cost, 4)), half=cost<.01)
    return file


# %% [markdown]
# Weights are kept in 16 bits if the validation strips lose less than 0.01 dB by it.

# %%
#| export
@torch.no_grad()
def _cost_of_half(net, data): # dB
    if not data.val: return 0.
    half = copy.deepcopy(net).eval()
    half.load_state_dict({k: v.half().to(v.dtype) if v.is_floating_point() else v for k,v in net.state_dict().items()})
    strips = [data.transfer_batch_to_device(b, next(net.parameters()).device, 0) for b in data.val_dataloader()]
    def mean(f): return sum(psnr(b['scale'].back(f(b['ms'], b['pan'])), b['gt'], b['sensor'].peak).item() for b in strips)/len(strips)
    return mean(start(net.eval(), data.q.scaling)) - mean(start(half, data.q.scaling))


# %% [markdown]
# The machine, in words.

# %%
#| export
def _machine(trainer):
    d = trainer.strategy.root_device
    name = torch.cuda.get_device_name(d) if d.type=='cuda' else f'{os.cpu_count()} CPU cores'
    return f'{trainer.world_size} x {name}, torch {torch.__version__}'


# %% [markdown]
# Names are taken in any case.

# %%
#| export
def spelled(
    model:str # any case
)->str:
    "The name of a network as we write it; raises `ValueError` with near names."
    hit = {n.lower(): n for n in networks}.get(model.lower())
    near = ', '.join(difflib.get_close_matches(model, networks, 3, .4)) or ', '.join(networks)
    if hit is None: raise ValueError(f'unknown network {model!r}: did you mean {near}?')
    return hit


# %% [markdown]
# ## Seen from outside
# Forty steps of DiCNN on two made-up scenes. The card tells the rest.

# %%
d = Path(tempfile.mkdtemp())
for i,n in enumerate(('QB', 'IKONOS')): save_scene(made_up(n, 256, i).assign_attrs(split='train'), d/f'{n}.nc')
q = recipes.recipe('DiCNN1', steps=40, batch=4, patch=32, jitter=0)
quiet = dict(save_every=10, accelerator='cpu', devices=1, progress=False)
f = run('DiCNN1', q, d, d/'run', **quiet)
card = json.loads(f.with_suffix('.json').read_text())
test_eq((card['steps'], len(card['data'])), (40, 2))
{k: card[k] for k in ('name', 'recipe', 'steps', 'scaling', 'validation', 'data')}

# %% [markdown]
# A finished run resumed does nothing and gives the same weights; another recipe in the same folder is refused, and so is a loss that is not a number.

# %%
again,_ = load(run('DiCNN1', q, d, d/'run', resume=True, **quiet))
test_eq(json.loads(f.with_suffix('.json').read_text())['sha256'], card['sha256'])
with expect_fail(ValueError, contains='another recipe'): run('DiCNN1', replace(q, lr=1), d, d/'run', resume=True, **quiet)
with expect_fail(ValueError, contains='holds a run'): run('DiCNN1', q, d, d/'run', **quiet)
with expect_fail(FloatingPointError, contains='at step'): run('DiCNN1', replace(q, lr=1e30, clip=0), d, d/'nan', **quiet)

# %% [markdown]
# ## Several processes, several machines
# Batches are shared, not multiplied: with $N$ processes each takes one $N$-th of the same batch, so recipes mean the same. Each line below starts a run or, with `--resume`,
# goes on with it; all need a folder that every machine sees.
#
# ```bash
# # one machine, four GPUs
# torchrun --no-python --nproc-per-node 4 pansharp-nb train --model PreMix-H --recipe paper --scenes DIR --out RUN --devices 4 --precision bf16-mixed
#
# # two machines of SLURM with four GPUs each; run again after a time limit, it goes on where it was
# srun --nodes 2 --ntasks-per-node 4 --gres gpu:4 pansharp-nb train --model PreMix-H --recipe paper --scenes DIR --out RUN \\
#   --devices 4 --nodes 2 --resume
# ```
