"""Predictive filtering against its definition by `F.unfold`: `python benchmarks/filtering.py [rounds] [name]`.

Four bands, float32, two threads, medians of interleaved runs; the ratio is the median of the rounds' own ratios.
Values and both gradients are asserted to agree before anything is timed. Memory is the peak resident set of a process
of its own above its level before the call; for forward + backward, beyond the gradient of the kernels, which no method
can avoid. "module" is predictor (a convolution of 32 channels) and filter together, at inference; below it what the
convolution alone costs, which at K 5 is nearly all. The last rows run beside one busy process. `name` picks the rows
that contain it.
"""
import os, subprocess, sys
from pathlib import Path
from race import busy, clock, go, race, show, verdict
import numpy as np, torch
from pansharp_nb.layers.filtering import PredictiveFilter, predictive_filter, unfold_filter

C,dim = 4,32

def inputs(n, K):
    torch.manual_seed(0)
    return torch.rand(1, C, n, n), torch.randn(1, C*K*K, n, n)/K, torch.randn(1, C, n, n)

def both(f, x, k, g): # forward, backward and the memory given back
    x,k = x.detach().requires_grad_(), k.detach().requires_grad_()
    f(x, k).backward(g)
    return x.grad,k.grad

def module(n, K):
    torch.manual_seed(0)
    m,h,x = PredictiveFilter(dim, C, K).requires_grad_(False), torch.rand(1, dim, n, n), torch.rand(1, C, n, n)
    @torch.no_grad()
    def whole(): return unfold_filter(x, m.predictor(h))
    @torch.no_grad()
    def strips(): return m(h, x)
    @torch.no_grad()
    def conv(): return m.predictor(h)
    return whole, strips, conv

# --- memory: one call in a process of its own --------------------------------------------------------------------------

def kib(key):
    return int(next(l for l in Path('/proc/self/status').read_text('utf-8').splitlines() if l.startswith(key)).split()[1])

def call(what, which, n, K):
    if what=='module': f = module(n, K)[which=='ours']
    else:
        x,k,g = inputs(n, K)
        filt = (unfold_filter, predictive_filter)[which=='ours']
        f = (lambda: filt(x, k)) if what=='forward' else (lambda: both(filt, x, k, g))
        both(filt, *inputs(16, K))
    Path('/proc/self/clear_refs').write_text('5', 'utf-8') # the peak starts again from here
    before = kib('VmRSS')
    keep = f()
    grad = keep[1].numel()*4/2**10 if what=='both' else 0
    print((kib('VmHWM')-before-grad)/2**10)

def peak(what, which, n, K): # MiB
    env = dict(os.environ, MALLOC_MMAP_THRESHOLD_='131072') # fixed, or glibc hoards what was freed
    r = subprocess.run([sys.executable, __file__, 'call', what, which, str(n), str(K)], env=env, capture_output=True, text=True, check=True)
    return float(r.stdout)

def memory(name, what, n, K, goal):
    a,b = (peak(what, w, n, K) for w in ('unfold', 'ours'))
    return dict(name=name, unfold_MiB=a, ours_MiB=b, ratio=a/b, goal=goal, said=verdict(a/b, goal))

# --- the race ----------------------------------------------------------------------------------------------------------

def more(f, rounds): return max(rounds, min(8*rounds, int(400/clock(f))))

def filters(n, K, rounds, wanted): # rows of the filter alone
    fwd,fb = f'forward, {n} px, K {K}',f'forward + backward, {n} px, K {K}'
    if not (wanted(fwd) or wanted(fb)): return
    x,k,g = inputs(n, K)
    goal = (12, 5) if (n, K)==(1024, 5) else (1, 1)
    peer,ours = (lambda f=f: f(x, k) for f in (unfold_filter, predictive_filter))
    r = more(peer, rounds if K<9 or n<1024 else 1) # seconds a call there
    if wanted(fwd): yield race(fwd, peer, ours, 1e-6, goal[0], r)
    if not wanted(fb): return
    a,b = (both(f, x, k, g)[1] for f in (unfold_filter, predictive_filter))
    assert (a-b).abs().max()<=1e-6*a.abs().max(), f'{fb}: kernel gradients differ'
    del a, b
    peer,ours = (lambda f=f: both(f, x, k, g)[0] for f in (unfold_filter, predictive_filter))
    yield race(fb, peer, ours, 2e-6, goal[1], r)

def modules(n, K, rounds, wanted):
    name = f'module, {n} px, K {K}'
    if not wanted(name): return
    whole,strips,conv = module(n, K)
    r = more(whole, rounds)
    yield race(name, whole, strips, 1e-6, 2 if n==1024 else 1, r)
    t = np.median([(clock(whole), clock(conv)) for _ in range(r)], 0)
    yield dict(name='  its convolution alone', peer_ms=t[0], ours_ms=t[1], ratio=t[0]/t[1], said='')

def shared(n, K, rounds, wanted):
    name = f'module, {n} px, K {K}, beside a busy process'
    if not wanted(name): return
    whole,strips,_ = module(n, K)
    with busy(): yield race(name, whole, strips, 1e-6, 1, more(whole, rounds), 1)

peaks = ('forward', 5, 20), ('both', 5, 20), ('module', 3, 2), ('module', 5, 5) # K, goal

def main(rounds=5, only='', sizes=(64, 256, 1024), memories=peaks):
    def wanted(name): return only in name
    rows = [r for n in sizes for K in (3, 5, 7, 9, 11) for r in filters(n, K, rounds, wanted)]
    rows += [r for f in (modules, shared) for n in sizes[1:] for K in (3, 5) for r in f(n, K, rounds, wanted)]
    n,mem = sizes[-1],[]
    for what,K,goal in memories:
        name = f'memory, {what}, {n} px, K {K}'
        if wanted(name): mem.append(memory(name, what, n, K, goal))
    return max([show(t, what) for t,what in ((rows, 'time'), (mem, 'memory')) if t], default=0)

if __name__=='__main__':
    if sys.argv[1:2]==['call']: call(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
    else: go(main)
