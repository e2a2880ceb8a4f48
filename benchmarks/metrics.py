"""Metrics against plain implementations of the same definitions: `python benchmarks/metrics.py [side] [rounds] [name]`.

Made-up 1024 x 1024 images (`side`), 2 threads, medians of interleaved runs (peer, ours, peer, ours, ...); the ratio is
the median of the rounds' own ratios. Values are asserted to agree before anything is timed. The numpy peers compute in
float64, as the public toolboxes do; ours runs in float64 and, in a row of its own, in float32. SSIM meets
`torchmetrics` in equal precision. `name` picks the rows that contain it.
"""
from race import clock, go, race, show
import numpy as np, torch
import torchmetrics.functional.image as tm
from scipy.ndimage import correlate, uniform_filter
from pansharp_nb.data.degrade import imresize, mtf, mtf_kernel
from pansharp_nb.data.sensors import sensor
from pansharp_nb.metrics.noreference import coarse_pan, d_lambda, d_lambda_k, d_s, noreference_metrics
from pansharp_nb.metrics.reference import q2n, reference_metrics, ssim

# --- the peers: one block, one band, one pair at a time ----------------------------------------------------------------

def conj(z): return np.concatenate([z[:1], -z[1:]])

def product(x, y): # Cayley-Dickson, components first
    n = len(x)
    if n==1: return x*y
    a,b,c,d = x[:n//2], conj(x[n//2:]), y[:n//2], conj(y[n//2:])
    return np.concatenate([product(a, c)-product(d, conj(b)), product(conj(a), d)+product(c, b)])

def block_q(y, x): # (C, 32, 32): standardise by the reference, multiply pixel by pixel
    N = y[0].size
    m,s = y.mean((1, 2), keepdims=True), y.std((1, 2), ddof=1, keepdims=True)
    a,c = (y-m)/s+1, conj((x-m)/s+1)
    ma,mc = a.mean((1, 2)), c.mean((1, 2))
    na,nc = (ma**2).sum(), (mc**2).sum()
    cov = N/(N-1)*(product(a, c).mean((1, 2))-product(ma, mc))
    var = N/(N-1)*((a**2).sum(0).mean()+(c**2).sum(0).mean()-na-nc)
    return np.sqrt((cov**2).sum())*2*np.sqrt(na*nc)/(na+nc)*2/var

def loop_q2n(x, y, n=32):
    x,y = (np.clip(np.floor(z+.5), 0, 65535) for z in (x, y))
    C,H,W = x.shape
    return np.mean([block_q(y[:, i:i+n, j:j+n], x[:, i:i+n, j:j+n]) for i in range(0, H, n) for j in range(0, W, n)])

def loop_d_lambda_k(x, exp, kernels):
    return 1-loop_q2n(np.stack([correlate(b, k, mode='nearest') for b,k in zip(x, kernels)]), exp)

def pair_q(a, b, n=32):
    inside = slice(n//2, 1-n//2)
    f = lambda z: uniform_filter(z, n)[inside, inside]
    ma,mb = f(a), f(b)
    va,vb,c = f(a*a)-ma*ma, f(b*b)-mb*mb, f(a*b)-ma*mb
    return (4*c*ma*mb/((va+vb)*(ma*ma+mb*mb))).mean()

def loop_d_lambda(x, m):
    C = len(x)
    return np.mean([abs(pair_q(x[i], x[j])-pair_q(m[i], m[j])) for i in range(C) for j in range(i+1, C)])

def loop_d_s(x, m, pan, low): return np.mean([abs(pair_q(b, pan)-pair_q(c, low)) for b,c in zip(x, m)])

# --- the race ----------------------------------------------------------------------------------------------------------

def scene(C, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(1, C+1, n//4, n//4, generator=g, dtype=torch.float64)
    z = imresize(z, 4)*150 + 60*torch.randn(1, C+1, n, n, generator=g, dtype=torch.float64)
    y = (z[:, 1:]*.6+z[:, :1]+600).clamp(1, 2047)
    x = (y+40*torch.randn(y.shape, generator=g, dtype=torch.float64)).clamp(1, 2047)
    return x, y, y.mean(1, keepdim=True)

def main(n=1024, rounds=5, only=''):
    rows = []
    def run(name, peer, ours, goal, args, k=rounds):
        if only not in name: return
        rows.append(race(f'{name}, float64', peer, lambda: ours(*args), 1e-9, goal, k))
        rows.append(race(f'{name}, float32', peer, lambda: ours(*(a.float() for a in args)), 1e-4, goal, k))
    npy = lambda z: z[0].numpy()

    for C in (4, 8):
        x,y,_ = scene(C, n)
        run(f'Q{C}', lambda: loop_q2n(npy(x), npy(y)), q2n, 15, (x, y))

    x,y,pan = scene(4, n)
    kernels = [mtf_kernel(g) for g in sensor('IKONOS').gains]
    run('D_lambda_K', lambda: loop_d_lambda_k(npy(x), npy(y), kernels), lambda x,y: d_lambda_k(x, y, 'IKONOS'), 19, (x, y), min(rounds, 3))
    low = coarse_pan(pan)
    run('D_lambda, sliding', lambda: loop_d_lambda(npy(x), npy(y)), lambda x,y: d_lambda(x, y, sliding=True), 8, (x, y), min(rounds, 3))
    run('D_s, sliding', lambda: loop_d_s(npy(x), npy(y), npy(pan)[0], npy(low)[0]),
        lambda x,y,pan,low: d_s(x, y, pan, low=low, sliding=True), 8, (x, y, pan, low), min(rounds, 3))

    for dt,tol,k in ((torch.float64, 1e-9, 1), (torch.float32, 1e-4, rounds)):
        if only not in 'SSIM': break
        a,b = x.to(dt), y.to(dt)
        peer = lambda: tm.structural_similarity_index_measure(a, b, data_range=2047.)
        rows.append(race(f'SSIM, {dt}'.replace('torch.', ''), peer, lambda: ssim(a, b, reflect=True), tol, 5, k))

    for dt in (torch.float64, torch.float32):
        if only not in 'all 17 columns': break
        a,b,p = x.to(dt), y.to(dt), pan.to(dt)
        ms = mtf(b, 'IKONOS', down=True)
        panel = lambda: (reference_metrics(a, b), noreference_metrics(a, ms, p, 'IKONOS'))
        panel()
        rows.append(dict(name=f'all 17 columns, {dt}'.replace('torch.', ''), ours_ms=np.median([clock(panel) for _ in range(rounds)]), said=''))

    return show(rows, f'{n} x {n} px')

if __name__=='__main__': go(main)
