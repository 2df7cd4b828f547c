// The collector's hosts: every request of the script asks them in turn, first the one that answered last, each for a limited time.

// `origins` in the order in which they are to be tried.
export function collector(origins, portal) {
  let inTurn = origins.slice();
  let answers = false; // the first of them does

  // What the first host gives that answers; rejected if none does. `attempt(host, signal)` promises one host's answer, and
  // is rejected once the signal aborts it: after `ms`.
  async function reach(attempt, ms) {
    for (const host of inTurn.slice()) {
      const late = new AbortController();
      const timer = setTimeout(() => late.abort(), ms);
      try {
        const answer = await attempt(host, late.signal);
        inTurn = [host, ...inTurn.filter((other) => other !== host)];
        answers = true;
        return answer;
      } catch (error) {
        // refused, silent or broken: the next one
      } finally {
        clearTimeout(timer);
      }
    }
    answers = false;
    throw new Error("no host answers");
  }

  const address = (host) => host + "/e/" + portal;

  // One host's answer to a body; a host that is broken has none. It is read to its end: until then it counts as in flight,
  // and of those that outlive the page (`keepalive`) a browser takes 64 KB.
  async function post(host, signal, body, keepalive) {
    const headers = { "Content-Type": "text/plain" };
    const answer = await fetch(address(host), { method: "POST", body, keepalive, credentials: "include", headers, signal });
    const text = await answer.text();
    if (answer.status >= 500) throw new Error("broken");
    return { status: answer.status, text };
  }

  // What the collector says to a question, in `ms` at most; nothing, if no host answers.
  function question(asked, ms) {
    const body = JSON.stringify(asked);
    const attempt = async (host, signal) => JSON.parse((await post(host, signal, body, false)).text);
    return reach(attempt, ms / inTurn.length).catch(() => ({}));
  }

  // Without waiting for an answer: to the host that gave the last one, or to all if none does.
  function leave(body) {
    inTurn.slice(0, answers ? 1 : undefined).forEach((host) => navigator.sendBeacon(address(host), new Blob([body], { type: "text/plain" })));
  }

  // Runs another script of the collector's. It is fetched first: a script element whose host is silent holds the page's load event.
  function load(path, ms) {
    const attempt = async (host, signal) => {
      await fetch(host + path, { mode: "no-cors", signal });
      await new Promise((loaded, failed) => {
        const script = document.createElement("script");
        Object.assign(script, { src: host + path, async: true, onload: loaded, onerror: failed });
        signal.onabort = failed;
        document.head.appendChild(script);
      });
    };
    return reach(attempt, ms);
  }

  return { reach, post, question, leave, load };
}
