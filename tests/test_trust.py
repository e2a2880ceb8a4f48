"What a stranger's folder, file or server can do: nothing that was not asked; and what may be done with scenes."
import errno, hashlib, http.server, io, os, re, shutil, subprocess, sys, tarfile, threading, tomllib
from pathlib import Path
import numpy as np, pytest, scipy.io, xarray as xr
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter
from pansharp_nb import cli, reporting, settings
from pansharp_nb.data import fetch
from pansharp_nb.data.licences import granted, licence_of, licence_of_weights, spdx
from pansharp_nb.data.scenes import open_scene
from pansharp_nb.data.synthetic import made_up

root = Path(__file__).parents[1]
me = os.geteuid() if hasattr(os, 'geteuid') else None

def one_line(e, *words):
    said = str(e.value)
    assert '\n' not in said and all(str(w) in said for w in words), said

@pytest.fixture(autouse=True)
def said_anew():
    settings.say_once.cache_clear()
    yield
    settings.say_once.cache_clear()

# ---- whose folder it is

@pytest.fixture
def deep(tmp_path, monkeypatch):
    "Two projects, one inside the other, and we stand deep in both; `theirs` makes a path another user's."
    monkeypatch.delenv('PANSHARP_NB_ROOT', raising=False)
    for d in ('a', 'a/b'):
        (tmp_path/d).mkdir()
        (tmp_path/d/'settings.ini').write_text(f'[paths]\nreports = from-{d[-1]}\n', 'utf-8')
    (tmp_path/'a/b/c').mkdir()
    monkeypatch.chdir(tmp_path/'a/b/c')
    real = Path.lstat
    monkeypatch.setattr(settings.Path, 'lstat', lambda p: Other(real(p)) if p in others else real(p))
    stat = Path.stat
    monkeypatch.setattr(settings.Path, 'stat', lambda p, **kw: Other(stat(p, **kw)) if p in others else stat(p, **kw))
    others = set()
    return tmp_path, others.add

class Other: # what the system says of a file, but for its owner
    def __init__(self, s): self.s,self.st_uid = s,me+1
    def __getattr__(self, k): return getattr(self.s, k)

def test_the_nearest_of_ones_own_is_taken(deep, recwarn):
    d,_ = deep
    assert settings.root()==d/'a/b' and settings.config()['paths']['reports']=='from-b' and not list(recwarn)

@pytest.mark.parametrize('what', ['settings.ini', '.'])
def test_another_users_is_passed_over_and_said_once(deep, recwarn, what):
    "The file, or the folder that holds it."
    d,theirs = deep
    theirs((d/'a/b'/what) if what!='.' else d/'a/b')
    for _ in range(3): assert settings.root()==d/'a' and settings.config()['paths']['reports']=='from-a'
    said, = [str(w.message) for w in recwarn]
    assert all(w in said for w in (str(d/'a/b/settings.ini'), f'id {me+1}', 'PANSHARP_NB_ROOT=')) and '\n' not in said

def test_all_are_anothers(deep, recwarn):
    d,theirs = deep
    theirs(d/'a/b/settings.ini'), theirs(d/'a/settings.ini')
    assert settings.root()==d/'a/b/c' and settings.config()['paths']['reports']=='reports' and len(recwarn)==2

def test_a_folder_that_was_named_is_taken(deep, monkeypatch, recwarn):
    d,theirs = deep
    theirs(d/'a/b/settings.ini')
    monkeypatch.setenv('PANSHARP_NB_ROOT', str(d/'a/b'))
    assert settings.root()==d/'a/b' and settings.config()['paths']['reports']=='from-b' and not list(recwarn)

def test_sudo_is_the_user_behind_it(deep, monkeypatch):
    d,theirs = deep
    theirs(d/'a/b/settings.ini')
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    for who,want in ((str(me+1), d/'a/b'), ('nobody', None), ('', None)):
        monkeypatch.setenv('SUDO_UID', who)
        if want: assert settings.root()==want
        else: assert settings.stranger(d/'a/b/settings.ini')
    monkeypatch.setattr(os, 'geteuid', lambda: me+7) # SUDO_UID counts for root alone
    monkeypatch.setenv('SUDO_UID', str(me))
    assert settings.stranger(d/'a/settings.ini')

def test_a_system_that_tells_no_owner(deep, monkeypatch, recwarn):
    "As Windows: a project below the home folder is taken, another is not, and a line says why."
    d,_ = deep
    monkeypatch.delattr(os, 'geteuid')
    monkeypatch.setattr(settings.Path, 'home', lambda: d/'a')
    assert settings.root()==d/'a/b' and not list(recwarn)
    monkeypatch.setattr(settings.Path, 'home', lambda: d/'elsewhere')
    assert settings.root()==d/'a/b/c' and 'does not tell whose it is' in str(recwarn[0].message)

def test_the_clone_itself_is_always_taken(monkeypatch):
    "Its code runs already, whoever owns it: a container, a lab's shared clone."
    monkeypatch.delenv('PANSHARP_NB_ROOT', raising=False)
    monkeypatch.setattr(settings, '_users', lambda: {me+1})
    assert settings.root(root/'nbs'/'tables')==root

@pytest.mark.skipif(me!=0, reason='only root can give a file away')
def test_a_file_that_was_really_given_away(tmp_path, monkeypatch, capsys):
    "On the command line it is one line on standard error."
    monkeypatch.delenv('PANSHARP_NB_ROOT', raising=False)
    monkeypatch.delenv('SUDO_UID', raising=False)
    (tmp_path/'settings.ini').write_text('[paths]\ndata = theirs\n', 'utf-8')
    os.chown(tmp_path/'settings.ini', 4321, -1)
    monkeypatch.chdir(tmp_path)
    assert cli.main(['data', 'list'])==0
    err = capsys.readouterr().err
    assert err.count('\n')==1 and 'id 4321' in err and err.startswith('pansharp-nb: ')

# ---- settings.ini

unusable = [('data = x', 'no section'), ('[paths', 'section'), ('[paths]\ndata', 'data'),
    ('[paths]\ndata = a\ndata = b', 'already exists'), ('[paths]\n[paths]', 'already exists'),
    ('[path]\ndata = x', '[path]'), ('[paths]\nreport = x', "'report'"), ('[DEFAULT]\nx = 1', "'x'"),
    ('[profile.smoke]\ncolour = red', "'colour'"),
    *((f'[paths]\ndata = {v}', 'leaves the project') for v in ('/etc', '../x', 'a/../../b', '', 'a\x00b')),
    *((f'[profile.smoke]\nsize = {v}', f'size = {v}') for v in ('big', '12.5', '-1', '0', '1000000', 'nan')),
    ('[profile.quick]\nsize =', 'size is empty'), ('[profile.quick]\nmethods =', 'methods is empty'),
    ('[profile.mine]\nsize = 64', 'lacks methods, sensors')]

@pytest.mark.parametrize('text,said', unusable)
def test_settings_that_cannot_be_used_are_one_line(tmp_path, text, said):
    (tmp_path/'settings.ini').write_bytes(text.encode())
    with pytest.raises(ValueError) as e: settings.config(tmp_path)
    one_line(e, tmp_path/'settings.ini', said, 'mend it')

no_text = {'UTF-16': b'\xff\xfe[\x00p\x00', 'Latin-1': b'[paths]\ndata = \xe9t\xe9\n', 'two megabytes': b'#'*2**21}

@pytest.mark.parametrize('data', no_text.values(), ids=no_text)
def test_settings_that_are_no_text_are_one_line(tmp_path, data):
    (tmp_path/'settings.ini').write_bytes(data)
    with pytest.raises(ValueError) as e: settings.config(tmp_path)
    one_line(e, tmp_path/'settings.ini')

def test_settings_as_editors_write_them(tmp_path):
    "A byte-order mark, Windows line ends, a percent sign, letters beyond ASCII, an own profile, a link outside."
    (tmp_path/'out').symlink_to('/')
    mine = '[profile.mine]', 'size = 64', 'sensors = QB', 'methods = EXP'
    lines = '\ufeff[paths]', 'data = 50%/été', 'reports = out', *mine
    (tmp_path/'settings.ini').write_bytes('\r\n'.join(lines).encode())
    c = settings.config(tmp_path)
    assert dict(c['paths'])==dict(data='50%/été', reports='out', weights='weights')
    assert c['profile.mine']['methods']=='EXP'

@pytest.mark.parametrize('make', ['folder', 'pipe'])
def test_what_is_no_file_is_no_settings(tmp_path, make):
    d = tmp_path/'settings.ini'
    d.mkdir() if make=='folder' else os.mkfifo(d)
    assert settings.config(tmp_path)['paths']['data']=='data'

def test_a_broken_project_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path/'settings.ini').write_text('[paths]\nreports = /etc\n', 'utf-8')
    monkeypatch.setenv('PANSHARP_NB_ROOT', str(tmp_path))
    assert cli.main(['data', 'list'])==1
    err = capsys.readouterr().err
    assert err.count('\n')==1 and 'leaves the project' in err

def test_a_folder_of_reports_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setenv('PANSHARP_NB_ROOT', str(tmp_path))
    (tmp_path/'settings.ini').touch()
    (tmp_path/'reports').touch()
    with pytest.raises(OSError) as e: settings.reports_dir()
    one_line(e, tmp_path/'reports', 'settings.ini')

# ---- which code

git = shutil.which('git')
needs_git = pytest.mark.skipif(not git, reason='no git')

def at(d, *words, **env):
    who = {f'GIT_{w}_{k}': 'a@b' for w in ('AUTHOR', 'COMMITTER') for k in ('NAME', 'EMAIL')}
    plain = dict(GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM='1') | who
    p = subprocess.run([git, '-C', d, *words], capture_output=True, encoding='utf-8', env=os.environ | plain | env)
    assert p.returncode==0, p.stderr
    return p.stdout.strip()

def traps(d): # a repository whose configuration runs something at every turn; what was run lies in `ran`
    ran = d.parent/'ran'
    ran.mkdir(exist_ok=True)
    def trap(name): return f'touch {ran/name}'
    core = {f'core.{k}': trap(k) for k in ('fsmonitor', 'pager', 'sshCommand', 'editor', 'askPass')}
    alias = {f'alias.{k}': f'!{trap("alias-"+k)}' for k in ('rev-parse', 'ls-tree', 'status', 'diff')}
    filters = {f'filter.x.{k}': f'{trap("filter-"+k)}; cat' for k in ('clean', 'smudge', 'process')}
    more = {k: trap(k) for k in ('diff.external', 'diff.x.textconv', 'gpg.program')}
    more['core.hooksPath'] = str(d/'hooks')
    fetch = {'extensions.partialClone': 'origin', 'remote.origin.promisor': 'true', 'protocol.ext.allow': 'always',
        'remote.origin.url': f"ext::sh -c 'touch% {ran}/fetch'", 'credential.helper': f'!{trap("credential")}'}
    for k,v in (core | alias | filters | more | fetch).items(): at(d, 'config', k, v)
    (d/'hooks').mkdir()
    for h in ('post-index-change', 'pre-auto-gc', 'fsmonitor-watchman', 'reference-transaction', 'post-checkout'):
        (d/'hooks'/h).write_text(f'#!/bin/sh\n{trap("hook-"+h)}\n', 'utf-8')
        (d/'hooks'/h).chmod(0o755)
    (d/'.git'/'info'/'attributes').write_text('* filter=x diff=x\n', 'utf-8')
    return ran

@pytest.fixture
def clone(tmp_path):
    "The package in a repository of its own."
    d = tmp_path/'clone'
    shutil.copytree(root/'pansharp_nb', d/'pansharp_nb', ignore=shutil.ignore_patterns('trained', '__pycache__'))
    (d/'nbs').mkdir()
    (d/'nbs'/'a.txt').write_text('one\ntwo\n', 'utf-8')
    at(tmp_path, 'init', '-q', d)
    at(d, 'add', '-A'), at(d, 'commit', '-qm', 'all')
    return d

def commit(clone, cwd=None, **env):
    env = os.environ | dict(PYTHONPATH=str(clone)) | env
    how = dict(cwd=cwd or clone.parent, capture_output=True, encoding='utf-8', env=env)
    p = subprocess.run([sys.executable, '-c', 'from pansharp_nb import settings; print(settings.commit())'], **how)
    assert (p.returncode, p.stderr)==(0, ''), p.stderr
    return p.stdout.strip()

@needs_git
def test_provenance_is_of_the_packages_own_clone(clone):
    head = at(clone, 'rev-parse', 'HEAD')
    assert commit(clone)==head
    (clone/'nbs'/'a.txt').write_bytes(b'one\r\ntwo\r\n')
    (clone/'nbs'/'new.txt').touch()
    assert commit(clone)==head, 'line ends of Windows, and files that are not tracked, are no changes'
    (clone/'nbs'/'a.txt').write_text('one\nthree\n', 'utf-8')
    assert commit(clone)==head+'+changes'
    at(clone, 'add', '-A')
    assert commit(clone)==head+'+changes'
    at(clone, 'commit', '-qm', 'more')
    assert commit(clone)==at(clone, 'rev-parse', 'HEAD')!=head
    (clone/'nbs'/'a.txt').unlink()
    assert commit(clone).endswith('+changes')

@needs_git
def test_the_folder_we_stand_in_is_not_asked(clone, tmp_path):
    "A stranger's repository, full of traps; nor is the one that the environment names."
    d = tmp_path/'foreign'
    at(tmp_path, 'init', '-q', d)
    (d/'file').write_text('x', 'utf-8')
    at(d, 'add', '-A'), at(d, 'commit', '-qm', 'theirs')
    ran = traps(d)
    head,named = at(clone, 'rev-parse', 'HEAD'),dict(DIR=d/'.git', WORK_TREE=d, INDEX_FILE=d/'.git'/'index')
    assert commit(clone, cwd=d)==head
    assert commit(clone, cwd=d, **{f'GIT_{k}': str(v) for k,v in named.items()})==head
    assert not list(ran.iterdir())
    os.utime(d/'file')
    subprocess.run([git, '-C', d, 'status'], capture_output=True)
    assert list(ran.iterdir()), 'the traps are real: `git status` steps into them'

@needs_git
def test_a_clone_full_of_traps_runs_none(clone):
    ran,head = traps(clone),at(clone, 'rev-parse', 'HEAD')
    for f in (clone/'pansharp_nb').glob('*.py'): os.utime(f)
    assert commit(clone)==head
    tree = at(clone, 'rev-parse', 'HEAD:pansharp_nb')
    (clone/'.git'/'objects'/tree[:2]/tree[2:]).unlink()
    assert commit(clone)=='None', 'a tree that is not here is not fetched'
    assert not list(ran.iterdir())

@needs_git
def test_where_there_is_no_commit(clone, tmp_path):
    "No history yet, a package that the repository above does not track, no git, and a git in the folder we stand in."
    head,own = at(clone, 'rev-parse', 'HEAD'),dict(PATH=str(tmp_path/'nowhere'))
    assert commit(clone, **own)=='None'
    (tmp_path/'git').write_text(f'#!/bin/sh\ntouch {tmp_path}/ran\n', 'utf-8')
    (tmp_path/'git').chmod(0o755)
    assert commit(clone, PATH=os.pathsep.join(['.', '']))=='None' and not (tmp_path/'ran').exists()
    assert commit(clone)==head
    shutil.rmtree(clone/'.git')
    at(tmp_path, 'init', '-q')
    assert commit(clone)=='None', 'the repository above is another'
    at(clone, 'init', '-q')
    assert commit(clone)=='None'

# ---- licences

free = ['CC0', 'cc-0', 'CC0-1.0', 'CC0 1.0 Universal', 'Public Domain', 'US public domain', 'public domain (USGS)',
    'PDDL', 'Landsat public domain', 'CC BY 4.0', 'cc-by-4.0', 'CC_BY_4.0', 'CC BY-SA 4.0', 'CC-BY-SA-3.0',
    'ODC-By 1.0', 'none needed', 'CC\xa0BY 4.0', 'Creative Commons Attribution 4.0 International',
    'https://creativecommons.org/licenses/by/4.0/',
    'Creative Commons Attribution-ShareAlike 4.0 International License', 'NAIP is US public domain (USDA); repo MIT',
    'https://creativecommons.org/publicdomain/zero/1.0/deed.en', 'CC-0 (data/README.md); Landsat public domain',
    'no licence file in repo; Landsat-8 data are US public domain (USGS)',
    'MIT (bundled LICENSE); Landsat public domain',
    'SpaceNet-6 data CC BY-SA 4.0 (Maxar/SpaceNet); repo Apache-2.0 (c) CosmiQ']
not_free = ['', ' ', ';', 'unknown', 'not stated', 'CC BY-NC 4.0', 'CC BY-ND 4.0', 'CC BY-NC-SA 4.0',
    'CC-BY-NC-ND-4.0', 'CCBYNC', 'Creative Commons Attribution-NonCommercial 4.0',
    'Creative Commons Attribution-NoDerivatives 4.0', 'cc by noncommercial',
    'https://creativecommons.org/licenses/by-nc/4.0/', 'https://creativecommons.org/licenses/by/4.0/?but=not',
    'as CC0', 'https://evil.example/licenses/by/4.0/', 'no licence file in repo; CC BY is not granted',
    'not public domain', 'MIT', 'CC BY 4.0 pending', 'formerly CC0', 'CC BY 4.0 (non-commercial use only)',
    'public domain; no derivatives', 'repo MIT', 'CC0 except the imagery', 'CC BY 4.0; all rights reserved',
    'no licence file in repo', 'Apache-2.0', 'GPL-3.0', 'CC BY 9.9', 'research use only',
    'no licence file in repo (all rights reserved by default); CC BY 4.0', 'CC-BY-4.0 AND LicenseRef-vendor',
    'MIT (repo); provenance of imagery not stated', 'GRIP-UNINA licence: nonprofit/research use only',
    'CC BY\n4.0 is refused', 'the public domain act does not apply']

@pytest.mark.parametrize('licence', free)
def test_free_licences(licence): assert granted(licence)

@pytest.mark.parametrize('licence', not_free)
def test_licences_that_are_not_free(licence):
    assert not granted(licence) and not reporting.is_free(made_up('QB', size=32).assign_attrs(licence=licence))

def test_licences_of_the_scenes_that_lie_here(scenes):
    "Free are made public-domain and CC BY-SA scenes, and nothing else; a reference is followed to its end."
    said = {f.stem: licence_of(f) for f in sorted(scenes.glob('*.nc'))}
    known = ('L8_', 'NAIP_', 'WV2_SN6_')
    assert said and not [n for n,l in said.items() if l.startswith('as ')]
    if len(said)>50: assert {n for n,l in said.items() if granted(l)}=={n for n in said if n.startswith(known)}

def test_weights_are_as_free_as_the_least_of_their_scenes():
    a,b,c,d = ('a', 'CC0'), ('b', 'CC BY 4.0'), ('c', 'CC BY-SA 4.0'), ('d', 'CC BY-NC 4.0')
    assert [licence_of_weights(s) for s in ([a], [a, b], [a, b, c])]==['Apache-2.0', 'CC-BY-4.0', 'CC-BY-SA-4.0']
    assert all(licence_of_weights(s).startswith('research use only') for s in ([d], [a, d], [a, b, c, d]))
    assert licence_of_weights([]).startswith('not stated')

def test_notice_and_front_page_say_so():
    for f in ('NOTICE', 'README.md'): assert 'for research' in ' '.join((root/f).read_text('utf-8').split())
    assert 'NOTICE' in tomllib.loads((root/'pyproject.toml').read_text('utf-8'))['project']['license-files']
    assert spdx('CC BY-SA 4.0') in (root/'NOTICE').read_text('utf-8')

# ---- held out

def alike(a, b, least=300): # largest correlation of two images over all places where they share that many pixels
    def high(x):
        ok = (x!=0).all(0).astype(float)
        g,w = x.mean(0)*ok,gaussian_filter(ok, 3).clip(1e-6)
        return (g-gaussian_filter(g, 3)/w)*ok, ok
    (x,m),(y,n) = high(a),[o[::-1, ::-1] for o in high(b)]
    size = [next_fast_len(i+j-1) for i,j in zip(x.shape, y.shape)]
    X,X2,M,Y,Y2,N = (rfft2(o, size) for o in (x, x*x, m, y, y*y, n))
    count,sx,sy,xy,xx,yy = (irfft2(o, size) for o in (M*N, X*N, M*Y, X*Y, X2*N, M*Y2))
    var = (xx-sx**2/count.clip(1)).clip(0)*(yy-sy**2/count.clip(1)).clip(0)
    return np.where((count>least-.5) & (var>1e-6*var.max()), (xy-sx*sy/count.clip(1))/np.sqrt(var.clip(1e-9)), 0).max()

def test_no_training_scene_shows_ground_of_a_test_scene(scenes):
    "High frequencies at every offset of whole pixels; two cuts of a scene with ten columns in common are the control."
    def read(f):
        with xr.open_dataset(f, engine='h5netcdf') as d: return d.get('gt', d.ms).values.astype(float), d.attrs
    known = {f.stem: read(f) for f in sorted(scenes.glob('*.nc'))}
    split = {s: {n: (x, a['sensor']) for n,(x,a) in known.items() if a.get('split')==s} for s in ('test', 'train')}
    found = {(t, n): alike(x, y) for t,(x,s) in split['test'].items() for n,(y,s2) in split['train'].items() if s==s2}
    if not found: pytest.skip('other scenes')
    large = [x for x,_ in split['test'].values() if min(x.shape[1:])>99]
    cuts = [alike(x[..., :k+10], x[..., k:]) for x in large for k in [x.shape[-1]//2]]
    assert max(found.values())<.8<.9<min(cuts), (max(found, key=found.get), max(found.values()), cuts)

# ---- downloads

class Files(http.server.SimpleHTTPRequestHandler):
    asked = 0
    def log_message(self, *_): pass
    def do_GET(self):
        type(self).asked += 1
        super().do_GET()

@pytest.fixture
def lab(tmp_path, monkeypatch):
    "A server on the loopback with one scene, and a list that names it: (its folder, where to, the row, the handler)."
    there,h = tmp_path/'there',type('H', (Files,), dict(asked=0))
    there.mkdir()
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), lambda *a: h(*a, directory=str(there)))
    threading.Thread(target=s.serve_forever, args=(.01,), daemon=True).start()
    rng = np.random.default_rng(0)
    ms,pan = (rng.integers(1, 2047, s) for s in ((16, 16, 4), (64, 64)))
    scipy.io.savemat(there/'lab.mat', dict(I_MS=ms, I_PAN=pan))
    url = f'http://127.0.0.1:{s.server_port}/lab.mat'
    row = dict(name='lab', how='download', sensor='IKONOS', licence='CC0', url=url, note='')
    monkeypatch.setattr(fetch, 'registry', lambda: [row])
    yield there, tmp_path/'here', row, h
    s.shutdown(), s.server_close()

def digest(f, kind): return hashlib.new(kind, f.read_bytes()).hexdigest()

@pytest.mark.parametrize('kind', ['sha256', 'md5', None])
def test_a_damaged_download_is_removed_and_fetched_anew(lab, kind):
    there,here,row,h = lab
    if kind: row[kind] = digest(there/'lab.mat', kind).upper()
    dst,raw = fetch.get('lab', here), here/'downloads'/'lab.mat'
    b = raw.read_bytes()
    for i,harmed in enumerate((b[:-9], b'', b[:99]+bytes([b[99]^1])+b[100:], b'<html>')):
        raw.write_bytes(harmed)
        with pytest.raises(ValueError) as e: fetch.get('lab', here)
        one_line(e, raw, 'damaged', 'is removed', 'anew')
        assert not raw.exists() and fetch.get('lab', here)==dst and h.asked==i+2 and open_scene(dst).pan.shape==(64, 64)

@pytest.mark.parametrize('kind', ['sha256', 'md5'])
def test_what_is_not_the_pinned_file_is_not_kept(lab, kind):
    there,here,row,h = lab
    row[kind] = digest(there/'lab.mat', kind)
    good = (there/'lab.mat').read_bytes()
    (there/'lab.mat').write_bytes(good[:500])
    with pytest.raises(ValueError) as e: fetch.get('lab', here)
    one_line(e, 'lab', 'damaged on its way', 'nothing is kept')
    assert not list((here/'downloads').iterdir()) and not (here/'lab.nc').exists()
    (there/'lab.mat').write_bytes(good)
    assert open_scene(fetch.get('lab', here)).licence=='CC0'

no_scene = dict(empty=b'', page=b'<html>Log in to the hotel</html>', head=b'MATLAB 5.0 MAT-file'+bytes(200),
    noise=bytes(range(256))*9)

@pytest.mark.parametrize('what', no_scene.values(), ids=no_scene)
@pytest.mark.parametrize('end', ['mat', 'tar.gz'])
def test_a_first_download_that_holds_no_scene_does_not_stay(lab, what, end):
    there,here,row,h = lab
    good = (there/'lab.mat').read_bytes()
    row['url'] = row['url'].replace('mat', end)
    (there/f'lab.{end}').write_bytes(what)
    with pytest.raises(ValueError) as e: fetch.get('lab', here)
    one_line(e, f'lab.{end}', 'held no scene', 'is removed')
    assert not list((here/'downloads').iterdir())
    if end=='mat':
        (there/'lab.mat').write_bytes(good)
        assert open_scene(fetch.get('lab', here)).pan.shape==(64, 64)

def test_a_cut_archive(lab):
    there,here,row,h = lab
    with tarfile.open(there/'lab.tar.gz', 'w:gz') as t:
        info = tarfile.TarInfo('L8_B2.TIF')
        info.size = 10**5
        t.addfile(info, io.BytesIO(os.urandom(10**5)))
    (there/'lab.tar.gz').write_bytes((there/'lab.tar.gz').read_bytes()[:5*10**4])
    row['url'] = row['url'].replace('mat', 'tar.gz')
    with pytest.raises(ValueError) as e: fetch.get('lab', here)
    one_line(e, 'held no scene')

def test_an_archive_that_swells(lab, monkeypatch):
    there,here,row,h = lab
    with tarfile.open(there/'lab.tar.gz', 'w:gz') as t:
        info = tarfile.TarInfo('L8_B2.TIF')
        info.size = 10**6
        t.addfile(info, io.BytesIO(bytes(10**6)))
    monkeypatch.setattr(fetch, '_most', 10**5)
    row['url'] = row['url'].replace('mat', 'tar.gz')
    with pytest.raises(ValueError) as e: fetch.get('lab', here)
    one_line(e, 'unpack to more than')

def test_a_file_put_there_by_hand_is_left_there(lab):
    there,here,row,h = lab
    (here/'downloads').mkdir(parents=True)
    (here/'downloads'/'lab.mat').write_bytes(b'not what it says')
    with pytest.raises(ValueError) as e: fetch.get('lab', here)
    one_line(e, 'lab.mat', 'cannot be read')
    assert (here/'downloads'/'lab.mat').exists() and h.asked==0

def test_the_list_says_what_is_pinned():
    t = fetch.scene_table()
    down = t[t.how=='download']
    assert set(down.check)<={'pinned', 'first download'} and (down.check=='pinned').any()
    assert ((down.check=='pinned')==(down.sha256.notna() | down.md5.notna())).all()
    assert set(t[t.how!='download'].check)=={'-'}
    assert all(re.fullmatch('[0-9a-f]{32}', m) for m in t.md5.dropna())

@pytest.fixture
def full():
    "From here on no file grows beyond a kilobyte."
    resource = pytest.importorskip('resource')
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    def now(): resource.setrlimit(resource.RLIMIT_FSIZE, (1000, was[1]))
    yield now
    resource.setrlimit(resource.RLIMIT_FSIZE, was)

@pytest.mark.parametrize('what', ['made-up-IKONOS', 'lab', 'by hand'])
def test_a_full_disk_is_one_line(lab, full, capsys, monkeypatch, what):
    "HDF5 does not survive one, so what is written is made in memory first. Full at once, or for the scene only."
    there,here,row,h = lab
    if what=='made-up-IKONOS': monkeypatch.undo()
    if what=='by hand':
        (here/'downloads').mkdir(parents=True)
        shutil.copy(there/'lab.mat', here/'downloads')
    full()
    assert cli.main(['data', 'get', what if what!='by hand' else 'lab', '--folder', str(here)])==1
    *before,last = capsys.readouterr().err.splitlines()
    assert all(w in last for w in ('cannot write', os.strerror(errno.EFBIG), 'another folder')) and all('named by place' in l for l in before)
    assert {f.name for f in here.rglob('*')}<={'downloads', 'lab.mat', 'lab.mat.sha256'}
