// SHA-256 (FIPS 180-4) of a file. Browsers have it built in, but only for pages
// that come by https; in a valley they come by http, and files may be larger
// than a telephone's memory.

const K = new Int32Array(64), H = new Int32Array(8);
for (let n = 2, i = 0; i < 64; n++) {
  let prime = true;
  for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
  if (!prime) continue;
  if (i < 8) H[i] = (Math.sqrt(n) % 1) * 2 ** 32;
  K[i++] = (Math.cbrt(n) % 1) * 2 ** 32;
}

/** The sum of bytes that come in pieces. */
export class Sha256 {
  #h = H.slice();
  #w = new Int32Array(64);
  #rest = new Uint8Array(64);
  #filled = 0;
  #length = 0;

  #block(b, at) {
    const w = this.#w, h = this.#h;
    for (let i = 0; i < 16; i++, at += 4) w[i] = b[at] << 24 | b[at + 1] << 16 | b[at + 2] << 8 | b[at + 3];
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15], y = w[i - 2];
      w[i] = w[i - 16] + w[i - 7]
        + ((x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ x >>> 3)
        + ((y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ y >>> 10) | 0;
    }
    let [a, b1, c, d, e, f, g, i1] = h;
    for (let i = 0; i < 64; i++) {
      const t = i1 + ((e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7)) + (e & f ^ ~e & g) + K[i] + w[i] | 0;
      const u = ((a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10)) + (a & b1 ^ a & c ^ b1 & c) | 0;
      i1 = g; g = f; f = e; e = d + t | 0; d = c; c = b1; b1 = a; a = t + u | 0;
    }
    h[0] += a; h[1] += b1; h[2] += c; h[3] += d; h[4] += e; h[5] += f; h[6] += g; h[7] += i1;
  }

  add(bytes) {
    this.#length += bytes.length;
    let at = 0;
    if (this.#filled) {
      at = Math.min(64 - this.#filled, bytes.length);
      this.#rest.set(bytes.subarray(0, at), this.#filled);
      this.#filled += at;
      if (this.#filled < 64) return this;
      this.#block(this.#rest, 0);
    }
    for (; at + 64 <= bytes.length; at += 64) this.#block(bytes, at);
    this.#rest.set(bytes.subarray(at));
    this.#filled = bytes.length - at;
    return this;
  }

  hex() {
    const length = this.#length, end = new Uint8Array((this.#filled < 56 ? 64 : 128) - this.#filled);
    end[0] = 0x80;
    new DataView(end.buffer).setUint32(end.length - 8, Math.floor(length / 2 ** 29));
    new DataView(end.buffer).setUint32(end.length - 4, length * 8 >>> 0);
    this.add(end);
    return [...this.#h].map((n) => (n >>> 0).toString(16).padStart(8, "0")).join("");
  }
}

const atOnce = 64 << 20; // bytes that may be in memory together

/** The SHA-256 of a file in hex. */
export async function sumOf(file, progress) {
  if (globalThis.crypto?.subtle && file.size <= atOnce) {
    const sum = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
    return [...new Uint8Array(sum)].map((b) => b.toString(16).padStart(2, "0")).join("");
  }
  const sum = new Sha256();
  for (let at = 0; at < file.size; at += 1 << 20) {
    sum.add(new Uint8Array(await file.slice(at, at + (1 << 20)).arrayBuffer()));
    progress(at / file.size);
    await new Promise((done) => setTimeout(done));
  }
  return sum.hex();
}
