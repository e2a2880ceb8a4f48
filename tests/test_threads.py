"Parts of an image, each the work of one thread: the same bytes whatever the number; when nothing is handed on."
import os, subprocess, sys, threading
import pytest, torch
from concurrent.futures import ThreadPoolExecutor
from pansharp_nb.metrics.noreference import d_lambda, d_s
from pansharp_nb.metrics.reference import psnr, q2n, sam, scc, ssim, tiles
from pansharp_nb.threads import each

@pytest.fixture
def threads(request):
    n = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(n)

def image(C=4, n=400, seed=0, dtype=torch.float64):
    return 300+200*torch.rand(1, C, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)

scores = dict(psnr=psnr, sam=sam, scc=scc, ssim=ssim, q2n=q2n, d_lambda=lambda x,y: d_lambda(x, y, sliding=True),
    d_s=lambda x,y: d_s(x, y, x[:, :1], low=y[:, :1], sliding=True))

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('name', scores)
def test_scores_are_the_same_bytes(name, dtype):
    x,y,was,all = image(dtype=dtype),image(seed=1, dtype=dtype),torch.get_num_threads(),[]
    for n in (1, 2, 3, 2):
        torch.set_num_threads(n)
        all.append(scores[name](x, y))
    torch.set_num_threads(was)
    assert [torch.equal(a, all[0]) for a in all]==[True]*4

@pytest.mark.parametrize('threads', [2], indirect=True)
def test_gradients_do_not_notice(threads):
    x,y = image(n=150).requires_grad_(),image(n=150, seed=1)
    two = torch.autograd.grad(psnr(x, y).sum(), x)[0]
    torch.set_num_threads(1)
    torch.testing.assert_close(two, torch.autograd.grad(psnr(x, y).sum(), x)[0], rtol=1e-12, atol=0)
    assert two.abs().sum()>0

@pytest.mark.parametrize('threads', [3], indirect=True)
def test_results_come_in_order(threads):
    "Even if the first part is the last to be ready; a tile knows its place."
    last = threading.Event()
    def f(i):
        if i==0: assert last.wait(60)
        if i==8: last.set()
        return i
    assert list(each(f, list(range(9)), torch.ones(1)))==list(range(9))
    x = image(4, 600)
    def corners(): return tiles(lambda x: x[:, :1, 0, 0].clone(), x, halo=10, join=lambda t: torch.stack(t, 1))
    got = corners()
    torch.set_num_threads(1)
    assert torch.equal(got, corners()) and got.numel()>3

@pytest.mark.parametrize('threads', [2], indirect=True)
def test_nothing_is_handed_on(threads):
    "One part, a gradient, a mode that watches, a default device, a worker's own parts."
    from torch.utils.flop_counter import FlopCounterMode
    x,me = torch.ones(8, 8),threading.get_ident()
    def who(_): return threading.get_ident()
    def only_me(n=4, x=x): return set(each(who, list(range(n)), x))=={me}
    assert only_me(1) and only_me(x=x.clone().requires_grad_()) and only_me(x=torch.ones(2, device='meta'))
    with FlopCounterMode(display=False): assert only_me()
    with torch.device('cpu'): assert only_me()
    with torch.no_grad(): assert not only_me(x=x.clone().requires_grad_())
    assert not only_me() and only_me(0)==False
    inner = each(lambda _: {threading.get_ident()}=={*each(who, [1, 2, 3], x)}, [1, 2, 3], x)
    assert list(inner)==[True]*3

@pytest.mark.parametrize('threads', [2], indirect=True)
def test_a_failure_leaves_nothing_behind(threads):
    def f(i):
        if i==3: raise ValueError('part three')
        return i
    for _ in range(3):
        with pytest.raises(ValueError, match='part three'): list(each(f, list(range(50)), torch.ones(1)))
        assert list(each(lambda i: i, [1, 2], torch.ones(1)))==[1, 2]
    assert torch.get_num_threads()==2

@pytest.mark.parametrize('threads', [2], indirect=True)
def test_many_callers(threads):
    "Callers of several threads share the workers, and get their own results; nobody loses threads."
    def go(i): return sum(each(lambda t: t+100*i, list(range(40)), torch.ones(1))), torch.get_num_threads()
    with ThreadPoolExecutor(8) as pool: side = list(pool.map(go, range(24)))
    assert side==[(780+4000*i, 2) for i in range(24)]

forked = """
import os, signal, torch
from pansharp_nb.threads import each
torch.set_num_threads(2)
def run(): return list(each(lambda i: i*i, [1, 2, 3, 4], torch.ones(1)))
want = run()
if not (child := os.fork()):
    signal.alarm(60)
    os._exit(run()!=want)
assert os.waitpid(child, 0)[1]==0 and run()==want
"""

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_after_a_fork(): subprocess.run([sys.executable, '-c', forked], check=True)
