"""Whole scenes: wall, CPU and peak memory of `pansharp-nb fuse`, beside GDAL's own pansharpening of the same files.

    python benchmarks/fusing.py [SIDE] [METHOD ...]      a made-up scene of SIDE x SIDE PAN px (default 8192), four bands, uint16

Each run is a process of its own. GDAL runs inside rasterio: the driver behind `gdal_pansharpen`, which itself need not be installed."""
import os, subprocess, sys, tempfile, time
from pathlib import Path
import rasterio
from rasterio import Affine

def scene(d, n, seed=0):
    "Tiles of one made-up town, so that a scene of any size is made in seconds."
    from pansharp_nb.data.synthetic import made_up
    ds = made_up('IKONOS', size=1024, seed=seed)
    for name,a,px in (('IKONOS_pan.tif', ds.pan.values[None], 1.), ('IKONOS_ms.tif', ds.ms.values, 4.)):
        side = n//int(px)
        with rasterio.open(d/name, 'w', driver='GTiff', count=len(a), height=side, width=side, dtype='uint16', crs='EPSG:32633', tiled=True,
            transform=Affine(px, 0, 5e5, 0, -px, 5e6), bigtiff='IF_SAFER') as f:
            for i in range(0, side, a.shape[1]):
                for j in range(0, side, a.shape[2]):
                    h,w = min(a.shape[1], side-i),min(a.shape[2], side-j)
                    f.write(a[:, :h, :w], window=rasterio.windows.Window(j, i, w, h))
    return d/'IKONOS_pan.tif', d/'IKONOS_ms.tif'

gdal = """import rasterio, rasterio.shutil, sys
pan,ms,out,threads,compress = sys.argv[1:]
bands = ''.join(f'<SpectralBand dstBand="{i}"><SourceFilename>{ms}</SourceFilename><SourceBand>{i}</SourceBand></SpectralBand>' for i in (1, 2, 3, 4))
vrt = ('<VRTDataset subClass="VRTPansharpenedDataset"><PansharpeningOptions><Algorithm>WeightedBrovey</Algorithm><AlgorithmOptions><Weights>.25,.25,.25,.25</Weights>'
    f'</AlgorithmOptions><Resampling>Cubic</Resampling><NumThreads>{threads}</NumThreads><PanchroBand><SourceFilename>{pan}</SourceFilename><SourceBand>1</SourceBand></PanchroBand>{bands}'
    '</PansharpeningOptions></VRTDataset>')
with rasterio.Env(GDAL_CACHEMAX=64):
    kw = dict(compress='deflate', zlevel=1, predictor=2) if compress=='deflate' else {}
    rasterio.shutil.copy(vrt, out, driver='GTiff', tiled=True, blockxsize=512, blockysize=512, bigtiff='IF_SAFER', **kw)"""
ours = "import sys; from pansharp_nb.cli import main; sys.exit(main(sys.argv[1:]))"

def run(code, *args):
    "Wall, CPU and peak memory of a process: s, s, MB."
    t = time.time()
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = p.stderr.read().decode()
    _,status,u = os.wait4(p.pid, 0)
    if status: sys.exit(said)
    return time.time()-t, u.ru_utime+u.ru_stime, u.ru_maxrss/1024

if __name__=='__main__':
    side,methods = int(sys.argv[1]) if len(sys.argv)>1 else 8192,sys.argv[2:] or ['Brovey', 'GSA', 'MTF-GLP-HPM-R']
    with tempfile.TemporaryDirectory() as d:
        pan,ms = scene(Path(d), side)
        out = Path(d)/'o.tif'
        print(f'{side} x {side} PAN px, 2 threads', flush=True)
        for compress in ('none', 'deflate'):
            rows = [('GDAL, weighted Brovey', gdal, (pan, ms, out, 2, compress))]
            rows += [(m, ours, ('fuse', '--method', m, '--jobs', 2, '--quiet', '--overwrite', '--compress', compress, pan, ms, out)) for m in methods]
            for name,code,args in rows:
                out.unlink(missing_ok=True)
                wall,cpu,mb = run(code, *args)
                print(f'{compress:8} {name:24} {wall:6.1f} s wall {cpu:6.1f} s CPU {mb:6.0f} MB', flush=True)
