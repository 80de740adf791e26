// The page asks the same server that it came from, with the same requests that any client may send.
// Texts and answers enter the page as text, never as markup. The key lives in its field only.

const WORDS = {
  en: {
    title: "playground", docs: "API", query: "Question", documents: "Documents, one a line",
    encoder: "Embedding model", reranker: "Reranker", first: "Rerank the first", key: "API key", compare: "Compare",
    none: "none", other: "中文", cosine: "cosine", from0to1: "score from 0 to 1",
    bm25: "BM25 over these documents", sum: "sum of both sides' z-scores",
    loading: "The models are being loaded …", ready: "Ready.", working: "Computing …",
    needsKey: "This server asks for a key.", wrongKey: "This is not one of the server's keys.",
    unreachable: "The server does not answer.",
    empty: "Write a question and at least one document.", nothing: "Choose a model.",
    time: (all, model) => `${all} ms, ${model} ms of them in the model`,
    tokens: (count) => `${count} tokens`, lost: (inputs, tokens) => `${inputs} cut, ${tokens} tokens lost`,
    cut: (kept, all) => `cut: the first ${kept} of ${all} tokens count`,
    up: (steps) => `${steps} up`, down: (steps) => `${steps} down`, same: "as before",
    again: (seconds) => `Try again in ${seconds} s.`,
    done: (count, ms) => `${count} documents, ${ms} ms in all.`,
  },
  zh: {
    title: "试验台", docs: "接口文档", query: "问题", documents: "文档，每行一篇",
    encoder: "向量模型", reranker: "重排模型", first: "重排前几篇", key: "API 密钥", compare: "比较",
    none: "不用", other: "English", cosine: "余弦相似度", from0to1: "分数 0 到 1",
    bm25: "BM25，以这些文档为语料", sum: "两侧 z 分数之和",
    loading: "模型加载中……", ready: "就绪。", working: "计算中……",
    needsKey: "此服务需要密钥。", wrongKey: "密钥不对。", unreachable: "服务没有应答。",
    empty: "请填写问题和至少一篇文档。", nothing: "请选择模型。",
    time: (all, model) => `${all} 毫秒，其中模型 ${model} 毫秒`,
    tokens: (count) => `${count} 个词元`, lost: (inputs, tokens) => `${inputs} 篇被截断，丢失 ${tokens} 个词元`,
    cut: (kept, all) => `已截断：只计前 ${kept} 个词元，共 ${all} 个`,
    up: (steps) => `上升 ${steps}`, down: (steps) => `下降 ${steps}`, same: "不变",
    again: (seconds) => `请 ${seconds} 秒后重试。`,
    done: (count, ms) => `${count} 篇文档，共 ${ms} 毫秒。`,
  },
};

const PAUSE = 1000; // milliseconds between two looks at a server that loads

const at = (id) => document.getElementById(id);
let words = WORDS.en;
let models = [];
let shown = null; // what `show` drew last, to draw it again in the other language
let said = null; // the status, as a function of the words
let busy = false;
let connecting = null;

function speak(language) {
  words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  document.title = `zh-retrieval ${words.title}`;
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = words[place.dataset.word];
  at("language").textContent = words.other;
  at("language").lang = language === "zh" ? "en" : "zh-Hans";
  if (said) at("status").textContent = said();
  if (shown) show(shown);
}

function say(what, wrong = false) {
  said = what;
  at("status").textContent = what();
  at("status").classList.toggle("wrong", wrong);
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

class Refused extends Error {
  constructor(answer, body) {
    super(body?.error?.message ?? body?.error ?? body?.message ?? body?.reason ?? `HTTP ${answer.status}`);
    this.status = answer.status;
    this.seconds = answer.headers.get("retry-after");
  }
}

async function ask(path, body) {
  const key = at("key").value;
  const start = performance.now();
  const answer = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) },
    body: body && JSON.stringify(body),
    cache: "no-store",
  });
  const content = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer, content);
  const number = (name) => Number(answer.headers.get(name));
  return {
    content,
    all: performance.now() - start,
    model: Number(/dur=([\d.]+)/.exec(answer.headers.get("server-timing"))?.[1]),
    cut: number("x-truncated"),
    lost: number("x-truncated-tokens"),
  };
}

function connect() { // once, however many ask for it
  connecting ??= connected().finally(() => { connecting = null; });
  return connecting;
}

async function connected() {
  for (;;) {
    try {
      models = (await ask("v1/zh-retrieval/models")).content.models;
      break;
    } catch (error) {
      if (error.status !== 503) return refused(error);
      say(() => words.loading);
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
  const fill = (select, task, ...more) => {
    const names = models.filter((model) => model.task === task).map((model) => element("option", {}, model.id));
    at(select).replaceChildren(...names, ...more);
    return names.length > 0;
  };
  at("embedding").hidden = !fill("encoder", "embed");
  at("reranking").hidden = !fill("reranker", "rerank", element("option", { value: "", "data-word": "none" }, words.none));
  at("depth").hidden = at("embedding").hidden || at("reranking").hidden;
  say(() => words.ready);
}

function refused(error) {
  if (error.status === 401) {
    at("secret").hidden = false;
    at("key").focus();
    say(() => (at("key").value ? words.wrongKey : words.needsKey), true);
  } else {
    const again = error.seconds;
    const message = error instanceof Refused ? error.message : null;
    say(() => (message ?? words.unreachable) + (again ? ` ${words.again(again)}` : ""), true);
  }
}

function vector(base64) {
  return new Float32Array(Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer);
}

function dot(one, other) {
  return one.reduce((sum, value, index) => sum + value * other[index], 0);
}

async function embedded(model, query, documents) {
  const of = (side, input) => ask("v1/embeddings", { model: `${model.id}-${side}`, input, encoding_format: "base64" });
  const asked = await of("query", [query]);
  const found = await of("document", documents);
  const tokens = await ask("tokenize", { model: model.id, inputs: documents, prompt_name: "document" });
  const one = vector(asked.content.data[0].embedding);
  const scores = found.content.data.map((entry) => dot(one, vector(entry.embedding)));
  return {
    model, unit: "cosine", tokens: tokens.content,
    rows: scores.map((score, index) => ({ index, score })).sort((one, other) => other.score - one.score),
    count: asked.content.usage.total_tokens + found.content.usage.total_tokens,
    all: asked.all + found.all, inModel: asked.model + found.model,
    cut: asked.cut + found.cut, lost: asked.lost + found.lost,
  };
}

// Sparse vectors of words: the values come from the server, how rare a word is from the documents here, as in a store.
async function lexical(model, query, documents) {
  const of = (side, inputs) => ask("embed_sparse", { model: model.id, inputs, prompt_name: side });
  const [asked, found] = [await of("query", [query]), await of("document", documents)];
  const vectors = found.content.map((vector) => new Map(vector.map((entry) => [entry.index, entry.value])));
  const rarity = (index) => {
    const holding = vectors.filter((vector) => vector.has(index)).length;
    return Math.log(1 + (vectors.length - holding + 0.5) / (holding + 0.5));
  };
  const weights = asked.content[0].map((entry) => [entry.index, entry.value * rarity(entry.index)]);
  const scores = vectors.map((vector) => weights.reduce((sum, [index, weight]) => sum + weight * (vector.get(index) ?? 0), 0));
  return {
    model, unit: "bm25", tokens: null,
    rows: scores.map((score, index) => ({ index, score })).filter((row) => row.score > 0)
      .sort((one, other) => other.score - one.score),
    count: 0, all: asked.all + found.all, inModel: asked.model + found.model, cut: 0, lost: 0,
  };
}

// As `zh_retrieval.fuse`: the first 100 of each side, z-scores by half; what a side did not find gets its lowest.
function fused(dense, lexical) {
  const sides = [dense, lexical].map((stage) => {
    const rows = stage.rows.slice(0, 100);
    const mean = rows.reduce((sum, row) => sum + row.score, 0) / rows.length;
    const deviation = Math.sqrt(rows.reduce((sum, row) => sum + (row.score - mean) ** 2, 0) / rows.length);
    const equal = deviation <= 1e-9 * Math.max(...rows.map((row) => Math.abs(row.score)));
    const scores = new Map(rows.map((row) => [row.index, equal ? 0 : (row.score - mean) / deviation]));
    return { scores, lowest: rows.length ? Math.min(...scores.values()) : 0 };
  });
  const found = [...new Set(sides.flatMap((side) => [...side.scores.keys()]))]; // equal sums stay in this order
  const sum = (index) => sides.reduce((total, side) => total + (side.scores.get(index) ?? side.lowest) / 2, 0);
  return {
    model: { id: `${dense.model.id} + ${lexical.model.id}` }, unit: "sum", tokens: null, before: dense,
    rows: found.map((index) => ({ index, score: sum(index) })).sort((one, other) => other.score - one.score),
    count: dense.count, all: dense.all + lexical.all, inModel: dense.inModel + lexical.inModel, cut: 0, lost: 0,
  };
}

async function reranked(model, query, documents, indices) {
  const found = await ask("v1/rerank", { model: model.id, query, documents: indices.map((index) => documents[index]) });
  return {
    model, unit: "from0to1", tokens: null,
    rows: found.content.results.map((entry) => ({ index: indices[entry.index], score: entry.relevance_score })),
    count: found.content.usage.total_tokens, all: found.all, inModel: found.model, cut: found.cut, lost: found.lost,
  };
}

async function compare() {
  const query = at("query").value.trim();
  const documents = at("documents").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!query || !documents.length) return say(() => words.empty, true);
  const chosen = (select) => models.find((model) => model.id === at(select).value);
  const encoder = chosen("encoder");
  const reranker = chosen("reranker");
  const lexicon = models.find((model) => model.task === "sparse"); // a server that was given one shows both sides
  if (!encoder && !reranker) return say(() => words.nothing, true);
  say(() => words.working);
  const start = performance.now();
  const stages = [];
  if (encoder) stages.push(await embedded(encoder, query, documents));
  if (encoder && lexicon) {
    stages.push(await lexical(lexicon, query, documents));
    stages.push(fused(...stages));
  }
  if (reranker) {
    const best = stages.at(-1);
    const order = best ? best.rows.map((row) => row.index) : documents.map((_, index) => index);
    const first = best ? Math.max(1, Number(at("first").value) || order.length) : order.length;
    stages.push({ ...(await reranked(reranker, query, documents, order.slice(0, first))), before: best });
  }
  show({ documents, stages });
  const ms = Math.round(performance.now() - start);
  say(() => words.done(documents.length, ms));
}

function show(found) {
  shown = found;
  at("stages").replaceChildren(...found.stages.map((stage) => section(stage, found.documents)));
}

function section(stage, documents) {
  const before = stage.before?.rows.map((row) => row.index) ?? null;
  const facts = [words[stage.unit], words.time(stage.all.toFixed(1), stage.inModel.toFixed(1))];
  if (stage.count) facts.push(words.tokens(stage.count));
  const line = element("p", { class: "facts" }, facts.join(" · "));
  if (stage.cut) line.append(" · ", element("span", { class: "cut" }, words.lost(stage.cut, stage.lost)));
  const rows = stage.rows.map((row, place) => item(row, place, stage, documents[row.index], before));
  return element("section", { "aria-label": stage.model.id }, element("h2", {}, stage.model.id), line, element("ol", {}, ...rows));
}

function item(row, place, stage, text, before) {
  const bar = element("div");
  const scores = stage.rows.map((entry) => entry.score);
  const [low, high] = ["bm25", "sum"].includes(stage.unit) ? [Math.min(0, ...scores), Math.max(...scores)] : [0, 1];
  bar.style.width = `${100 * Math.min(1, Math.max(0, (row.score - low) / (high - low || 1)))}%`;
  const head = element(
    "div", { class: "head" }, element("span", { class: "place" }, String(place + 1)),
    element("div", { class: "track", "aria-hidden": "true" }, bar),
    element("span", { class: "score" }, row.score.toFixed(4)), moved(before ? before.indexOf(row.index) - place : null),
  );
  const made = element("li", { "data-document": row.index }, head, element("p", { class: "text" }, text));
  if (stage.tokens) made.append(tokens(stage.tokens[row.index], stage.model.max_length));
  const twins = (on) => () => {
    for (const twin of document.querySelectorAll(`li[data-document="${row.index}"]`)) twin.classList.toggle("same", on);
  };
  made.addEventListener("pointerenter", twins(true));
  made.addEventListener("pointerleave", twins(false));
  return made;
}

function moved(steps) {
  if (steps === null) return element("span", { class: "moved" });
  const [sign, word] = steps > 0 ? ["↑", words.up(steps)] : steps < 0 ? ["↓", words.down(-steps)] : ["=", words.same];
  const sort = steps > 0 ? "moved up" : "moved";
  return element("span", { class: sort, title: word, role: "img", "aria-label": word }, steps ? `${sign}${Math.abs(steps)}` : sign);
}

function tokens(found, most) {
  const lost = Math.max(0, found.length - most);
  const ordinary = found.filter((token) => !token.special).length;
  const summary = element("summary", {}, words.tokens(found.length));
  if (lost) summary.append(" · ", element("span", { class: "cut" }, words.cut(found.length - lost, found.length)));
  const list = element("div", { class: "tokens" });
  const made = element("details", {}, summary, list);
  made.addEventListener("toggle", () => { // a long document has thousands of them
    if (!made.open || list.hasChildNodes()) return;
    let seen = 0;
    for (const token of found) {
      const cut = !token.special && ++seen > ordinary - lost;
      list.append(element("span", token.special ? { class: "special" } : cut ? { class: "lost" } : {}, token.text || "∅"));
    }
  });
  return made;
}

at("language").addEventListener("click", () => speak(words === WORDS.en ? "zh" : "en"));
at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (busy) return;
  busy = true;
  at("compare").setAttribute("aria-busy", "true");
  try {
    if (!models.length) await connect();
    if (models.length) await compare();
  } catch (error) {
    refused(error);
  } finally {
    busy = false;
    at("compare").removeAttribute("aria-busy");
  }
});
at("key").addEventListener("change", () => { if (!models.length) connect(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
speak(navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
connect();
