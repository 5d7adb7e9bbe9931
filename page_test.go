package main

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
)

const archerPage = "/device?target=ath79/generic&profile=tplink_archer-c7-v5"

func TestPageFromDeviceToImage(t *testing.T) {
	base, _ := startApplication(t, sampleUpstream(t, 0), nil)
	tb := startBrowser(t).tab(t, base)
	tb.open("/")
	tb.see("h1")
	tb.look("start")
	tb.open(archerPage)
	tb.see("#choose")
	tb.look("device")
	tb.typeIn("#more", "luci tmux"+kb.Enter)
	tb.see(`input[name=p][value=tmux]`)
	tb.look("device-packages")
	tb.click(".build button")
	tb.see("#result")
	tb.look("result")
	if text := tb.text("#result"); !strings.Contains(text, "sysupgrade") {
		t.Errorf("the result says: %s", text)
	}
	tb.open("/status")
	tb.look("status")
}
