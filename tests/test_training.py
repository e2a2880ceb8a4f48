"Training can be killed, shared and repeated: same seed, same bytes, whatever happens in between."
import contextlib, csv, h5py, io, json, numpy as np, os, pytest, resource, scipy.io, shutil, signal, subprocess, sys, time, torch
from functools import partial
from pathlib import Path
from pansharp_nb import scoring
from pansharp_nb.cli import main
from pansharp_nb.data.patches import Batches, grounds, turn, variant
from pansharp_nb.data.scenes import save_scene
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.models.networks import build, networks
from pansharp_nb.papers import ablations
from pansharp_nb.recipes import recipe, recipes
from pansharp_nb.training import _channels_last, objectives, rate
pytest.importorskip('lightning')
pytestmark = pytest.mark.usefixtures('one_thread')

STEPS = 60
BIN = Path(sys.executable).with_name('pansharp-nb')

@pytest.fixture(scope='module')
def ground(tmp_path_factory):
    d = tmp_path_factory.mktemp('ground')
    for i,n in enumerate(('QB', 'IKONOS')): save_scene(made_up(n, 256, i).assign_attrs(split='train'), d/f'{n}.nc')
    return d

def words(ground, out, *more):
    sets = [a for k,v in dict(steps=STEPS, batch=4, patch=32, jitter=0, warmup=0).items() for a in ('--set', f'{k}={v}')]
    return [str(w) for w in ('train', '--model', 'DiCNN1', '--scenes', ground, '--out', out, *sets, '--save-every', 5, '--accelerator', 'cpu', *more)]

def call(*args, exe=(BIN,), **kw): # a process of its own, to be killed or shared
    cmd = [*map(str, exe), *words(*args)]
    return subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'), **kw)

def finish(p):
    out,err = p.communicate(timeout=900)
    assert p.returncode==0, err
    return Path(out.strip().splitlines()[-1])

def here(*args): # in this process: exit code, what was said
    out,err = io.StringIO(),io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = main(words(*args))
    return code, out.getvalue(), err.getvalue()

def losses(run):
    with next(run.glob('metrics/*/metrics.csv')).open(encoding='utf-8') as f: return [float(r['loss']) for r in csv.DictReader(f) if r['loss']]

@pytest.fixture(scope='module')
def whole(ground, tmp_path_factory):
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    code,out,err = here(ground, tmp_path_factory.mktemp('whole')/'run', '--devices', 1)
    torch.set_num_threads(n)
    assert code==0, err
    return Path(out.strip().splitlines()[-1])

@pytest.fixture(scope='module')
def killed(ground, tmp_path_factory):
    run = tmp_path_factory.mktemp('killed')/'run'
    p = call(ground, run, '--devices', 1)
    while not (run/'last.ckpt').exists():
        assert p.poll() is None, p.communicate()[1]
        time.sleep(.02)
    p.send_signal(signal.SIGKILL)
    p.wait()
    step = torch.load(run/'last.ckpt', weights_only=True)['global_step']
    assert 0<step<STEPS, 'the run was over before it was killed'
    return run

def test_killed_and_resumed_is_the_same_to_the_last_bit(whole, killed, ground, tmp_path):
    run = shutil.copytree(killed, tmp_path/'run')
    f = finish(call(ground, run, '--devices', 1, '--resume'))
    assert f.read_bytes()==whole.read_bytes()
    a,b = (torch.load(p.parent/'last.ckpt', weights_only=True)['state_dict'] for p in (f, whole))
    assert all(torch.equal(a[k], b[k]) for k in b)
    cards = [json.loads(p.with_suffix('.json').read_text('utf-8')) for p in (f, whole)]
    assert cards[0]['validation']==cards[1]['validation']

def test_full_disk_leaves_the_last_checkpoint(killed, ground, tmp_path):
    run = shutil.copytree(killed, tmp_path/'run')
    was = (run/'last.ckpt').read_bytes()
    def small(): resource.setrlimit(resource.RLIMIT_FSIZE, (len(was)//2, len(was)//2))
    p = call(ground, run, '--devices', 1, '--resume', preexec_fn=small)
    err = p.communicate(timeout=900)[1]
    assert p.returncode==1 and 'pansharp-nb: cannot write' in err and 'make room' in err and 'Traceback' not in err, err
    assert (run/'last.ckpt').read_bytes()==was and not list(run.glob('*.part'))

def test_two_processes_have_the_losses_of_one(ground, tmp_path):
    sgd = '--set', 'optimiser=sgd', '--set', 'lr=.01', '--set', 'steps=20' # longer, or with Adam, rounding grows beyond 1e-5
    exe = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--no-python', '--nproc-per-node', '2', BIN]
    finish(call(ground, tmp_path/'two', '--devices', 2, *sgd, exe=exe))
    assert here(ground, tmp_path/'one', '--devices', 1, *sgd)[0]==0
    a,b = losses(tmp_path/'two'),losses(tmp_path/'one')
    assert len(a)==len(b)==20 and b[-1]<.9*b[0]
    np.testing.assert_allclose(a, b, rtol=1e-5)

def test_a_folder_that_cannot_be_written(ground, tmp_path):
    (tmp_path/'file').touch()
    code,_,err = here(ground, tmp_path/'file'/'run')
    assert code==1 and 'choose another folder' in err

def test_every_network_has_a_recipe():
    assert set(recipes['paper'])==set(recipes['quick'])==set(networks)

@pytest.mark.parametrize('t,want', [(0, 1.), (4999, 1.), (5000, .8), (12500, .64)])
def test_steps_of_the_premix_schedule(t, want): assert rate(recipe('PreMix-B', 'paper'), t, 30000, 100)==pytest.approx(want)

def test_cosine_ends_at_its_floor():
    q = recipe('SUM-DUN', 'paper')
    assert rate(q, 0, 1000, 10)==1 and rate(q, 1000, 1000, 10)==pytest.approx(q.floor)

def test_turns_are_the_eight_symmetries():
    x = torch.arange(12.).view(3, 4)[None]
    seen = {(*turn(x, k).flatten().tolist(), *turn(x, k).shape) for k in range(8)}
    assert len(seen)==8 and turn(x, 0).equal(x)

def test_a_turned_scene_is_degraded_after_the_turn(scenes):
    g = next(g for g in grounds(scenes) if not g.truth)
    plain,turned = variant(g),variant(g, k=4)
    assert torch.equal(turned[2], plain[2].flip(-1))                     # truth turns exactly
    assert (turned[0]-plain[0].flip(-1)).abs().max()>1e-4                # the MS grid does not
    assert plain[0].shape[-1]*4==plain[1].shape[-1]==plain[2].shape[-1]

def test_no_test_scene_is_trained_on(scenes):
    used = {g.name for c in (4, 8) for p in ('reduced', 'full') for g in grounds(scenes, c, protocol=p)}
    assert not used & {'IKONOS_imgIK', 'GF2rr_psdata3_tr4', 'QBrr_psdata_test', 'SPOT6_cropland', 'WV2_SN6_rotterdam3', 'GF2_psdata3_fullstrip'}
    spans = [g.span for c in (4, 8) for g in grounds(scenes, c) if g.name=='WV2_imgWV2']
    assert spans and all(b<=208 for _,b in spans)

def test_validation_strips_are_not_trained_on(scenes):
    train,val = ({(g.name, g.take): g.span for g in grounds(scenes, part=p)} for p in ('train', 'val'))
    assert val and all(train[k][1]<=val[k][0] for k in val)

def stack(path, n=6, bands=4):
    rng = np.random.default_rng(0)
    with h5py.File(path, 'w') as f:
        for k,c,s in (('gt', bands, 64), ('ms', bands, 16), ('lms', bands, 64), ('pan', 1, 64)): f[k] = rng.integers(1, 2047, (n, c, s, s)).astype('float64')
    return path

def test_pancollection_stack(tmp_path):
    f = stack(tmp_path/'train_qb.h5')
    gs = grounds(tmp_path)
    assert len(gs)==6 and gs[0].stack
    x = Batches([gs], 3, 4, 64, augment=False)[0]
    with h5py.File(f) as h: want = {h['gt'][i].tobytes() for i in range(6)}
    back = [(t*2047).round().double().numpy().tobytes() for t in x['gt']]
    assert x['ms'].shape==(4, 4, 16, 16) and all(b in want for b in back)

def test_pancollection_folder(tmp_path):
    "What is called test is tested on, at its scale; the rest is trained on."
    for n in ('train_qb', 'valid_qb', 'test_qb_multiExm1'): stack(tmp_path/f'{n}.h5')
    stack(tmp_path/'test_qb_OrigScale_multiExm1.h5')
    with h5py.File(tmp_path/'test_qb_OrigScale_multiExm1.h5', 'a') as f: del f['gt']
    where = {p: {d.attrs['name'].rsplit('_', 1)[0] for d in scoring.gather(str(tmp_path), 'QB', p)[0]} for p in ('reduced', 'full')}
    assert where==dict(reduced={'test_qb_multiExm1'}, full={'test_qb_OrigScale_multiExm1'})
    assert [{g.file.stem for g in grounds(tmp_path, part=p)} for p in ('train', 'val')]==[{'train_qb'}, {'valid_qb'}]

def test_nbu_folder(tmp_path):
    rng = np.random.default_rng(0)
    for d,k,s in (('MS_256', 'imgMS', (64, 64, 4)), ('PAN_1024', 'imgPAN', (256, 256))):
        (tmp_path/'3_QB'/d).mkdir(parents=True)
        for i in (1, 2, 3, 4): scipy.io.savemat(tmp_path/'3_QB'/d/f'{i}.mat', {k: rng.integers(1, 2047, s).astype('uint16')})
    gs = grounds(tmp_path/'3_QB')
    held = [d.attrs['name'] for d in scoring.gather(str(tmp_path), protocol='full')[0]]
    assert len(gs)==len(held)==2 and not {f'3_QB_{g.index+1}' for g in gs} & set(held) and not gs[0].stack
    assert Batches([gs], 2, 2, 32)[1]['gt'].shape==(2, 4, 32, 32)

@pytest.mark.parametrize('name', [n for n in networks if n!='DCFNet']) # the boards train that one in 32 bits
def test_half_precision_learns_in_the_same_direction(name):
    "Networks as they are trained where the processor has bf16; memory that was freed holds nonsense, as it does in a long run."
    torch.manual_seed(0)
    net = build(name, 4, 4, **{'PreMix-H': dict(dim=8), 'MFMIF-Net': dict(width=8), 'DCFNet': dict(dim=8), 'SUM-DUN': dict(d=4, blocks=(1,)*5)}.get(name, {}))
    ms,pan,gt = torch.rand(2, 4, 8, 8),torch.rand(2, 1, 32, 32),torch.rand(2, 4, 32, 32)
    def gradient(half):
        net.zero_grad()
        nonsense = [torch.full((n,), 1e9) for n in (100, 1000, 4096, 65536)]
        del nonsense
        with torch.autocast('cpu', torch.bfloat16, enabled=half): x = net(ms, pan)
        (x.float()-gt).abs().mean().backward()
        return torch.cat([p.grad.flatten().double() for p in net.parameters() if p.grad is not None])
    a = gradient(False)
    _channels_last(net)
    for _ in range(3): assert torch.cosine_similarity(a, gradient(True), 0)>.9

def test_a_dead_layer_is_named(ground, tmp_path, monkeypatch):
    def dead(*a, **kw):
        net = build(*a, **kw)
        torch.nn.init.constant_([m for m in net.modules() if isinstance(m, torch.nn.Conv2d)][1].bias, -1e4)
        return net
    assert 'no gradient' not in here(ground, tmp_path/'alive', '--set', 'steps=25')[2]
    monkeypatch.setattr('pansharp_nb.training.build', dead)
    code,_,err = here(ground, tmp_path/'dead', '--set', 'steps=25')
    assert code==0 and 'no gradient reaches' in err

def test_a_training_leaves_the_process_as_it_was(ground, tmp_path):
    assert here(ground, tmp_path/'run', '--set', 'steps=3')[0]==0 and not torch.are_deterministic_algorithms_enabled()

@pytest.mark.parametrize('study', ablations.studies)
def test_every_variant_of_a_study_can_learn(study):
    for k,q in ablations.recipes_of(study).items():
        torch.manual_seed(0)
        net = build(ablations.studies[study].variants[k].get('model', ablations.studies[study].model), 4, 4, **q.knobs)
        b = dict(ms=torch.rand(1, 4, 8, 8), pan=torch.rand(1, 1, 32, 32), gt=torch.rand(1, 4, 32, 32))
        loss = objectives[q.loss](partial(net, t=torch.rand(1, 384)) if q.text else net, b, **q.loss_args)
        loss.backward()
        assert loss.isfinite() and sum(p.grad.abs().sum() for p in net.parameters() if p.grad is not None)>0, k
