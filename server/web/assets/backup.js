// A router's backup is opened here, in the browser: it holds keys and
// passwords. Only what tells of packages, release and device is taken out of it.

const mostPacked = 32 << 20, mostUnpacked = 64 << 20, mostFiles = 20000;
const mostText = 256 << 10; // of one file

const lines = (form) => (text) => text.split(/\r?\n/).filter((line) => form.test(line)).join("\n");

/** What is read, and what of it is taken: the rest may be private. */
const wanted = {
  "etc/board.json": (text) => {
    const model = JSON.parse(text)?.model;
    return model?.id ? JSON.stringify({ board_name: String(model.id), model: String(model.name ?? "") }) : "";
  },
  "etc/openwrt_release": lines(/^DISTRIB_(RELEASE|REVISION|TARGET)=["']?[\w./+-]{1,64}["']?$/),
  "etc/apk/world": (text) => lines(/^[a-z0-9][\w.+-]{0,127}$/)(text.replace(/[<>=~@].*$/gm, "")),
  "etc/backup/installed_packages.txt": lines(/^[A-Za-z0-9][\w.+-]{0,127}\t(rom|overlay|unknown)$/),
};

/** An error whose message is the key of a sentence. */
const refuse = (why) => { throw new Error(why); };

/** Reads a stream by numbers of bytes. */
class Source {
  #reader; #piece = new Uint8Array(0); #total = 0;

  constructor(stream) { this.#reader = stream.getReader(); }

  /** Hands the next n bytes on, in pieces, and tells how many there were. */
  async read(n, take = () => {}) {
    let got = 0;
    while (got < n) {
      if (!this.#piece.length) {
        const { done, value } = await this.#reader.read();
        if (done) break;
        this.#total += value.length;
        if (this.#total > mostUnpacked) refuse("large");
        this.#piece = value;
      }
      const part = this.#piece.subarray(0, n - got);
      this.#piece = this.#piece.subarray(part.length);
      got += part.length;
      take(part);
    }
    return got;
  }

  /** The next n bytes together; null at the end of the stream. */
  async block(n) {
    const all = new Uint8Array(n);
    let at = 0;
    await this.read(n, (part) => { all.set(part, at); at += part.length; });
    if (at && at < n) refuse("damaged");
    return at ? all : null;
  }

  close() { return this.#reader.cancel().catch(() => {}); }
}

const decoder = new TextDecoder();
const field = (block, from, to) => decoder.decode(block.subarray(from, to)).split("\0")[0];

function octal(block, from, to) {
  const text = field(block, from, to).trim();
  return /^[0-7]{1,11}$/.test(text) ? parseInt(text, 8) : refuse("damaged");
}

/** The head of a file in a tar archive (POSIX ustar, and what GNU and BusyBox make of it). */
function head(block) {
  let sum = 0;
  for (let i = 0; i < 512; i++) sum += i >= 148 && i < 156 ? 32 : block[i];
  if (sum !== octal(block, 148, 156)) refuse("damaged");
  let name = field(block, 0, 100);
  if (field(block, 257, 263) === "ustar" && block[345]) name = field(block, 345, 500) + "/" + name;
  return { name: name.replace(/^(\.?\/)+/, ""), size: octal(block, 124, 136), type: block[156] ? String.fromCharCode(block[156]) : "0" };
}

/** Takes out of a tar archive what is wanted, by name. */
async function untar(source) {
  const found = {};
  let renamed = false; // the next file's name stands elsewhere, and is longer than any wanted
  for (let n = 0; ; n++) {
    if (n > mostFiles) refuse("large");
    const block = await source.block(512);
    if (!block || block.every((b) => !b)) return found;
    const { name, size, type } = head(block);
    const reads = type === "0" && !renamed && Object.hasOwn(wanted, name);
    if (reads && size > mostText) refuse("large");
    let content = "";
    if (reads) content = size ? decoder.decode(await source.block(size) ?? refuse("damaged")) : "";
    else if (await source.read(size) < size) refuse("damaged");
    const padding = (512 - size % 512) % 512;
    if (await source.read(padding) < padding) refuse("damaged");
    if (reads) found[name] = content;
    renamed = "xLK".includes(type);
  }
}

const begins = async (file, at, bytes) => {
  const is = new Uint8Array(await file.slice(at, at + bytes.length).arrayBuffer());
  return is.length === bytes.length && bytes.every((b, i) => b === is[i]);
};

/**
 * The text of a file, or what a backup tells; rejects with an Error whose
 * message is "damaged", "large", "nothing" or "unsupported".
 */
export async function textOf(file) {
  const packed = await begins(file, 0, [0x1f, 0x8b]);
  if (!packed && !await begins(file, 257, [...new TextEncoder().encode("ustar")])) {
    if (file.size > mostText) refuse("large");
    const text = await file.text();
    if (!text.trim() || /[\0-\x08\x0e-\x1a\x1c-\x1f\ufffd]/.test(text)) refuse("damaged");
    return { text };
  }
  if (file.size > mostPacked) refuse("large");
  if (!globalThis.DecompressionStream && packed) refuse("unsupported");
  const source = new Source(packed ? file.stream().pipeThrough(new DecompressionStream("gzip")) : file.stream());
  let found;
  try {
    found = await untar(source);
  } catch (error) {
    refuse(error.message === "large" ? "large" : "damaged"); // also what the browser says of gzip
  } finally {
    source.close();
  }
  const texts = {};
  for (const [name, take] of Object.entries(wanted)) {
    try {
      if (found[name]) texts[name] = take(found[name]);
    } catch { /* JSON that is none tells nothing */ }
  }
  const packages = texts["etc/backup/installed_packages.txt"] || texts["etc/apk/world"];
  if (!packages) refuse("nothing");
  return { text: Object.values(texts).filter(Boolean).join("\n") + "\n", packages: packages.split("\n").length };
}
