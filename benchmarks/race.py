"""Two ways to the same numbers, timed in turns: what every benchmark here shares.

Each row has the medians of both and the median of the rounds' own ratios, beside its goal. `others` is how many cores
other programs used meanwhile: goals are for a machine of one's own, and a goal missed beside others is not judged.
`python benchmarks/race.py` says what this machine can do.
"""
import contextlib, os, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, torch, torch.nn.functional as F

def go(main):
    "Two threads if `OMP_NUM_THREADS` says nothing; from the command line numbers and words."
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 2)))
    sys.exit(main(*(int(a) if a.isdigit() else a for a in sys.argv[1:])))

def clock(f):
    "Milliseconds of one call."
    t = time.perf_counter()
    f()
    return (time.perf_counter()-t)*1e3

def elsewhere():
    "CPU seconds of all other processes since the machine started; not a number where the system does not say."
    try: ticks = Path('/proc/stat').read_text('utf-8').split()[1:4] # user, nice, system
    except OSError: return np.nan
    return sum(map(int, ticks))/os.sysconf('SC_CLK_TCK') - time.process_time()

@contextlib.contextmanager
def busy():
    "One other process that wants a core all the time."
    p = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
    try: yield
    finally:
        p.kill()
        p.wait()

def race(name, peer, ours, tol, goal, rounds, beside=0):
    "One row: values agree within `tol` (relative to the peer's largest); `beside`: cores that are meant to be busy."
    a,b = (np.asarray(f(), dtype=float) for f in (peer, ours))
    gap = abs(a-b).max()/abs(a).max()
    assert gap<=tol, f'{name}: the two differ by {gap:.1e}'
    since = time.time(),elsewhere()
    t = np.array([(clock(peer), np.median([clock(ours) for _ in range(min(rounds, 3))])) for _ in range(rounds)])
    others = (elsewhere()-since[1])/(time.time()-since[0])
    (a,b),ratio = np.median(t, 0),np.median(t[:, 0]/t[:, 1])
    said = verdict(ratio, goal, others-beside)
    return dict(name=name, peer_ms=a, ours_ms=b, ratio=ratio, goal=goal, gap=gap, others=others, said=said)

def verdict(ratio, goal, others=0):
    "A goal is met, missed, or not to be judged here."
    if not ratio<goal: return 'met' if ratio>=goal else ''
    return 'shared' if others>.2 else 'missed'

def show(rows, what):
    "Print the table; exit code 1 if a goal was missed."
    t = pd.DataFrame(rows)
    cpu = f'{torch.get_num_threads()} of {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}'
    print(f'\n{what}; torch {torch.__version__}, {cpu}\n')
    forms = {k: '{:.0e}' if k=='gap' else '{:.0f}' if k=='goal' else '{:.1f}' for k in t.select_dtypes('number')}
    shown = {k: (lambda v, f=f: '' if v!=v else f.format(v)) for k,f in forms.items()}
    print(t.to_string(index=False, formatters=shown), flush=True)
    return int('missed' in set(t.said))

def main(n=256, rounds=9):
    "Layouts of a convolution, and memory that is fresh or kept."
    x,w = torch.rand(1, 64, n, n),torch.rand(64, 64, 3, 3)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, w)]
    a,b,kept = (torch.rand(256*n*n) for _ in range(3))
    def fresh(): return (a+b)[:9]
    def again(): return torch.add(a, b, out=kept)[:9]
    rows = [race('3 x 3 convolution of 64 channels; in channels-last', lambda: F.conv2d(x, w), lambda: F.conv2d(*last), 1e-5, np.nan, rounds),
        race('a sum into fresh memory; into memory that is kept', fresh, again, 0, np.nan, rounds)]
    flops,bytes = 2*64*64*9*(n-2)**2,12*a.numel()
    print(f'{flops/rows[0]["ours_ms"]/1e6:.0f} GFLOP/s, {bytes/rows[1]["ours_ms"]/1e6:.0f} GB/s')
    return show(rows, 'this machine')

if __name__=='__main__': go(main)
