"Where the reference arrays and the real scenes lie (tests that need them are skipped without), and quick networks with noise to fuse."
import ast, os, sys
from collections import Counter
from pathlib import Path
import pansharp_nb # noqa: F401, before torch: it keeps threads from spinning while they wait
if 'PYTEST_XDIST_WORKER' in os.environ: os.environ['OMP_NUM_THREADS'] = '1' # a worker a core
os.environ.pop('PYTHONDONTWRITEBYTECODE', None) # what one process has compiled the next need not: half of the time of all that start here
sys.dont_write_bytecode = False
import numpy as np, pytest, torch
from torch import nn

shared = Path(__file__).parents[2]/'shared'

@pytest.fixture(scope='session')
def reference():
    "Folder of arrays and numbers of the MATLAB toolbox."
    if not (shared/'reference').is_dir(): pytest.skip('no reference arrays beside the project')
    return shared/'reference'

@pytest.fixture(scope='session')
def scenes():
    "Folder of real scenes."
    d = Path(os.environ.get('PANSHARP_NB_DATA') or shared/'scenes')
    if not d.is_dir(): pytest.skip('no real scenes here: set PANSHARP_NB_DATA')
    return d

def load(path, dtype=torch.float64):
    "An `(H, W[, C])` array as `(1, C, H, W)`."
    a = np.load(path, allow_pickle=False).astype(np.float64)
    return torch.from_numpy(a if a.ndim==3 else a[..., None]).permute(2, 0, 1)[None].to(dtype)

@pytest.fixture
def one_thread():
    "For small networks: threads that wait for each other cost more than they bring."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

few = dict(nf=8, blocks=2)
small = dict(PreMixBase=dict(dim=4), PreMixHuge=dict(dim=4), MFMIFNet=dict(width=8), DCFNet=dict(dim=4), SIDP=dict(C=8, N=3),
    SUMDUN=dict(d=4, blocks=(1,)*5), PNN=dict(nf=(8, 6)), APNN=dict(nf=(8, 6)), ZPNN=dict(nf=(8, 6)), LambdaPNN=dict(nf=8), DRPNN=few, MSDCNN={},
    DiCNN1=dict(nf=8), PanNet=few, FusionNet=few, TFNet=dict(n=4), BDPN=few, SFINet=dict(n=8, K=2), MSDDN=dict(n=8), ADKNet=dict(nf=20, layers=2),
    LAGNet=dict(nf=8, blocks=1), PGCU=dict(dim=32, blocks=2), PanNetPGCU=dict(dim=32, blocks=2, nf=8, depth=1), UTSN=dict(n=8, K=3),
    LDPNet=dict(n=8, blur=5), AWFLN=dict(n=6), MDCUN=dict(T=2, n=6, mask=4, window=5), GPPNN=dict(n=8, K=2))

def shaken(net, seed=0):
    "Running statistics and raw weights off their start, so that nothing cancels by symmetry."
    g = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, .1, generator=g)
            m.running_var.uniform_(.5, 2, generator=g)
        if isinstance(getattr(m, 'w', None), nn.Parameter): m.w.data.uniform_(.2, 2, generator=g)
    return net

def net(cls, bands=4, seed=0, **kw):
    "A network with the knobs of `small`, in evaluation mode."
    torch.manual_seed(seed)
    return shaken(cls(bands, **small[cls.__name__] | kw)).eval()

def pair(bands=4, h=9, w=6, r=4, B=2, dtype=torch.float32):
    "MS and PAN, noise on [0, 1], the same every time."
    g = torch.Generator().manual_seed(0)
    return torch.rand(B, bands, h, w, generator=g, dtype=dtype), torch.rand(B, 1, r*h, r*w, generator=g, dtype=dtype)

together = 'tests/test_reports.py', 'tests/test_training.py' # what one run leaves all tests of the file read

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "Tests go to the workers one by one, but for `together`, which start first."
    from xdist.scheduler import LoadScopeScheduling
    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid): return f if (f := nodeid.split('::')[0]) in together else nodeid
    return Scheduling(config, log)

def pytest_terminal_summary(terminalreporter):
    "What the seconds buy, file by file."
    seconds,tests = Counter(),Counter()
    for r in [r for rs in terminalreporter.stats.values() for r in rs if hasattr(r, 'duration')]:
        seconds[r.nodeid.split('::')[0]] += r.duration
        tests[r.nodeid.split('::')[0]] += r.when=='call'
    if len(seconds)<3: return
    terminalreporter.section('ten slowest files, and what they buy')
    for f,t in seconds.most_common(10):
        said = ast.get_docstring(ast.parse(Path(terminalreporter.config.rootpath, f).read_text(encoding='utf-8'))).splitlines()[0]
        terminalreporter.line(f'{t:4.0f} s {tests[f]:4} {f}: {said}'[:140])
