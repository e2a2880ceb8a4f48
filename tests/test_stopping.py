"Signals, locks and outputs: what is finished stays, what is half done is never taken for finished, and one line says how to go on."
import os, shutil, signal, subprocess, sys, time
from pathlib import Path
import nbformat, pandas as pd, pytest, torch, xarray as xr
from pansharp_nb.cli import main
from pansharp_nb.data.scenes import save_scene
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.writing import owned, write

root = Path(__file__).parents[1]
exe = Path(sys.executable).with_name('pansharp-nb')
posix = pytest.mark.skipif(os.name!='posix', reason='signals and pipes of a Unix')
both = pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)

def start(*argv, **kw):
    env = os.environ | dict(OMP_NUM_THREADS='1') | kw.pop('env', {})
    return subprocess.Popen([str(a) for a in (exe, *argv)], stdin=subprocess.DEVNULL, text=True, env=env, **dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE) | kw)

def once(p, ready, seconds=120): # wait until something has happened
    end = time.time()+seconds
    while not ready():
        assert p.poll() is None, p.communicate()
        assert time.time()<end, 'it never came so far'
        time.sleep(.05)

def last(err): return err.strip().splitlines()[-1]

@pytest.fixture(scope='module')
def ground(tmp_path_factory):
    d = tmp_path_factory.mktemp('ground')
    for i,n in enumerate(('QB', 'GF2', 'GE1')): save_scene(made_up(n, 128, i).assign_attrs(split='train'), d/f'{n}.nc')
    return d

def training(ground, out, *more):
    return [str(a) for a in ('train', '--model', 'DiCNN1', '--scenes', ground, '--out', out, '--set', 'steps=100000', '--set', 'batch=2', '--set', 'patch=32',
        '--save-every', 5, '--accelerator', 'cpu', '--devices', 1, *more)]

# a training

@posix
@both
def test_training(ground, tmp_path, how, capfd):
    pytest.importorskip('lightning')
    p = start(*training(ground, out := tmp_path/'run'))
    once(p, (out/'last.ckpt').exists)
    with pytest.raises(RuntimeError, match='wait for it'):
        with owned(out): pass
    rival = main(training(ground, out, '--resume'))
    said = capfd.readouterr().err
    assert rival==1 and said.count('\n')==1 and 'another run is at work' in said
    p.send_signal(how)
    err = p.communicate(timeout=60)[1]
    assert p.returncode==128+how and f'stopped by {how.name}: go on from the last checkpoint with --resume' in last(err) and 'Traceback' not in err
    assert not [*out.glob('*.safetensors'), *out.glob('*.part'), *out.glob('.*.part')]
    with owned(out): pass
    assert torch.load(out/'last.ckpt', weights_only=True)['global_step']%5==0

@posix
def test_a_study_that_is_stopped_is_not_done(tmp_path):
    "As Snakemake calls it: no zero, and no scores of the variant that was under way."
    pytest.importorskip('lightning')
    code = f'from pansharp_nb.papers import ablations\nablations.run("premix_fig21", "quick", "made-up", steps=100000, device="cpu", keep={str(tmp_path)!r})'
    p = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
    once(p, lambda: [*tmp_path.rglob('metrics.csv')])
    p.send_signal(signal.SIGTERM)
    p.communicate(timeout=60)
    assert p.returncode and not [*tmp_path.rglob('scores.csv')]

@pytest.mark.parametrize('bad', ['empty', 'cut', 'other', 'nan', 'text', 'words'])
def test_a_bad_checkpoint_is_one_line(ground, tmp_path, bad):
    pytest.importorskip('lightning')
    from pansharp_nb import training
    from pansharp_nb.recipes import recipe
    q,kw = recipe('DiCNN1', steps=2, batch=2, patch=32),dict(progress=False, accelerator='cpu', devices=1)
    training.train('DiCNN1', q, ground, tmp_path, **kw)
    f = tmp_path/'last.ckpt'
    c = torch.load(f, weights_only=True)
    if bad=='empty': f.write_bytes(b'')
    if bad=='cut': f.write_bytes(f.read_bytes()[:-5000])
    if bad=='text': f.write_text('no checkpoint', 'utf-8')
    if bad=='words': (tmp_path/'run.json').write_text('{"model": ', 'utf-8')
    if bad=='nan': next(iter(c['state_dict'].values()))[:] = float('nan')
    if bad=='other': c['state_dict'] = {k+'x': v for k,v in c['state_dict'].items()}
    if bad in ('nan', 'other'): torch.save(c, f)
    said = dict(empty='empty or damaged', cut='empty or damaged', text='empty or damaged', words='is damaged', nan='not finite', other='another network')[bad]
    with pytest.raises(ValueError, match=said) as e: training.train('DiCNN1', q, ground, tmp_path, resume=True, **kw)
    assert str(tmp_path) in str(e.value) and '\n' not in str(e.value)

# reports

def clone(at, cell): # a project of one report
    for d in ('nbs/tables', 'nbs/figures', 'reports'): (at/d).mkdir(parents=True)
    shutil.copy(root/'settings.ini', at)
    shutil.copy(root/'nbs'/'Snakefile', at/'nbs')
    (at/'pansharp_nb').symlink_to(root/'pansharp_nb')
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("profile = 'auto'", metadata=dict(tags=['parameters'])), nbformat.v4.new_code_cell(cell)],
        metadata=dict(kernelspec=dict(name='python3', language='python', display_name='python3')))
    nbformat.write(nb, at/'nbs'/'tables'/'slow.ipynb')
    return at

slow = 'import pathlib, time, os\npathlib.Path("began").write_text(str(os.getpid()))\nwhile pathlib.Path("wait").exists(): time.sleep(.1)'

def alive(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    return 'Z' not in Path(f'/proc/{pid}/stat').read_text('utf-8').split(')')[-1] if Path(f'/proc/{pid}/stat').exists() else True

@posix
@pytest.mark.parametrize('command,how', [('all', signal.SIGTERM), ('all', signal.SIGINT), ('run', signal.SIGTERM)], ids=lambda x: getattr(x, 'name', x))
def test_reports(tmp_path, command, how):
    at = clone(tmp_path, slow)
    (at/'wait').touch()
    argv = ('all', '--profile', 'smoke') if command=='all' else ('run', 'slow', '-p', 'profile', 'smoke')
    p = start(*argv, cwd=at)
    once(p, lambda: (at/'began').exists() and (at/'began').read_text('utf-8'))
    kernel = int((at/'began').read_text('utf-8'))
    rival = start(*argv, cwd=at)
    said = rival.communicate(timeout=60)[1]
    assert rival.returncode==1 and 'is at work' in last(said)
    p.send_signal(how)
    err = p.communicate(timeout=60)[1]
    assert p.returncode==128+how and f'stopped by {how.name}' in err
    for _ in range(50):
        if not alive(kernel): break
        time.sleep(.1)
    assert not alive(kernel), 'the kernel goes on without its master'
    made = at/'reports'/'smoke'/'tables'/'slow.ipynb'
    assert not made.exists() and not [*(at/'.snakemake').glob('locks/*')]
    (at/'wait').unlink()
    p = start(*argv, cwd=at)
    err = p.communicate(timeout=120)[1]
    assert p.returncode==0 and made.exists(), err

# scores

@posix
def test_finished_scenes_are_written_when_the_rest_is_stopped(ground, tmp_path):
    for k in range(9): (tmp_path/f'{k}').mkdir()
    save_scene(made_up('QB', 256), tmp_path/'0'/'big.nc')
    for k in range(1, 9): os.link(tmp_path/'0'/'big.nc', tmp_path/f'{k}'/'big.nc')
    out,log = tmp_path/'scores.csv',tmp_path/'log'
    with log.open('w') as f: p = start('score', *(tmp_path/f'{k}'/'big.nc' for k in range(9)), '--methods', 'EXP,CNMF', '-o', out, stderr=f)
    once(p, lambda: 'becomes big#3' in log.read_text('utf-8')) # two scenes are done
    assert not out.exists()
    p.send_signal(signal.SIGTERM)
    assert p.wait(60)==143 and 'scenes were finished and are written' in last(log.read_text('utf-8'))
    d = pd.read_csv(out)
    assert {'big', 'big#2'}<={*d.scene} and d.scene.nunique()<9 and d.groupby('scene').method.nunique().eq(2).all()

def test_many_scenes(ground, tmp_path, capfd):
    "The good ones are written, the bad one is named; two of one name are told apart; one given twice counts once."
    bad,twin = tmp_path/'bad.nc',tmp_path/'QB.nc'
    bad.write_bytes((ground/'GF2.nc').read_bytes()[:3000])
    shutil.copy(ground/'QB.nc', twin)
    out = tmp_path/'s.csv'
    code = main([str(a) for a in ('score', ground/'QB.nc', bad, twin, ground/'GE1.nc', ground/'QB.nc', tmp_path/'gone.nc', '--methods', 'EXP', '-o', out)])
    err = capfd.readouterr().err
    d = pd.read_csv(out)
    assert code==1 and d.scene.nunique()==3 and not d.duplicated(['method', 'scene', 'metric']).any()
    assert all(f'{n}' in err for n in (bad, 'gone.nc')) and 'given twice' in err and '2 of 5 failed' in err and 'becomes' in err

@pytest.mark.parametrize('argv', [['score', '{s}', '-o', '{s}'], ['score', '{s}', '-o', '{d}'], ['score', '{s}', '-o', '{d}/gone/x.csv'], ['score', '{s}', '-o', '{l}'],
    ['score', '{d}/none.nc'], ['score', '{s}', '{s}', '--pan', '{s}'], ['train', '--model', 'FusionNet', '--set', 'lr=fast'], ['train', '--model', 'FusionNet', '--set', 'batch=2.5'],
    ['train', '--model', 'FusionNet', '--devices', 'none'], ['train', '--model', 'FusionNet', '--precision', '8'], ['run', 'table1', '--reports', '{s}/x'], ['score', '{s}', '--bits', '40'],
    ['score', '{s}', '-o', '{d}/notes.txt'], ['judge', '{s}', '{s}', '-o', '{d}/notes.txt'], ['score', '{s}', '-o', '{d}/'+'n'*300],
    ['run', 'table1', '-p', 'seed', 'abc'], ['run', 'table1', '-p', 'sensors', '[1']])
def test_a_wrong_call_costs_no_work(ground, tmp_path, capfd, argv, monkeypatch):
    from pansharp_nb import scoring
    monkeypatch.setattr(scoring, 'score', lambda *a, **k: pytest.fail('work was done'))
    s = shutil.copy(ground/'QB.nc', tmp_path/'s.nc')
    (tmp_path/'notes.txt').write_text('mine', 'utf-8') # it may be the numbers of a header, or the part of a mosaic
    (tmp_path/'l').symlink_to(s)
    code = main([a.format(s=s, d=tmp_path, l=tmp_path/'l') for a in argv])
    assert code==2 and capfd.readouterr().err.count('\n')==1 and (tmp_path/'notes.txt').read_text('utf-8')=='mine'

@pytest.mark.parametrize('how', ['ignore', 'error', 'always'])
def test_what_we_say_does_not_hang_on_the_environment(ground, tmp_path, how):
    ds = xr.open_dataset(ground/'QB.nc', engine='h5netcdf').load()
    ds.attrs.pop('bands'), ds.to_netcdf(tmp_path/'a.nc', engine='h5netcdf')
    env = os.environ | dict(PYTHONWARNINGS=how)
    p = subprocess.run([exe, 'score', tmp_path/'a.nc', '--methods', 'EXP'], env=env, capture_output=True, text=True)
    assert p.returncode==0 and p.stdout.startswith('method,') and p.stderr.count('named by place')==p.stderr.count('\n')==1

@posix
def test_what_is_no_file_is_written_as_it_is(ground, tmp_path):
    "A pipe, standard output, a full device, a symbolic link."
    os.mkfifo(pipe := tmp_path/'pipe')
    (tmp_path/'link').symlink_to(real := tmp_path/'real.csv')
    p = start('score', ground/'QB.nc', '--methods', 'EXP', '-o', '/dev/stdout')
    text = p.communicate(timeout=120)[0]
    assert text.startswith('method,scene,') and Path('/dev/stdout').exists()
    reader = subprocess.Popen(['cat', pipe], stdout=subprocess.PIPE, text=True)
    assert main(['score', str(ground/'QB.nc'), '--methods', 'EXP', '-o', str(pipe)])==0
    assert reader.communicate(timeout=60)[0]==text and pipe.is_fifo()
    assert main(['score', str(ground/'QB.nc'), '--methods', 'EXP', '-o', str(tmp_path/'link')])==0
    assert (tmp_path/'link').is_symlink() and real.read_text('utf-8')==text
    if Path('/dev/full').exists(): assert main(['score', str(ground/'QB.nc'), '--methods', 'EXP', '-o', '/dev/full'])==1
    assert sorted(p.name for p in tmp_path.iterdir())==['link', 'pipe', 'real.csv']

@posix
def test_no_room(tmp_path):
    "What cannot be written leaves the old file, no part, and one line."
    f = tmp_path/'x.csv'
    write(f, 'old')
    code = f'import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\nfrom pansharp_nb.writing import write\nwrite({str(f)!r}, "new"*100)'
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert p.returncode and 'cannot write' in last(p.stderr) and str(f) in last(p.stderr)
    assert f.read_text('utf-8')=='old' and [p.name for p in tmp_path.iterdir()]==['x.csv']

def test_version(capfd):
    from pansharp_nb import __version__
    assert main(['--version'])==0 and capfd.readouterr().out==f'pansharp-nb {__version__}\n'
