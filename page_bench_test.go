package main

import (
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
)

// The pages over a link as far valleys have it: 256 kbit/s, 150 ms away. Of the
// first page nothing is kept, as for somebody who comes for the first time; the
// others find its style and common script.
//
//	paint-ms        until something is to be seen
//	interactive-ms  until scripts answer
//	sent-B          bytes over the wire, headers included
//	heap-B          JavaScript heap of the tab
func BenchmarkPageOverASlowLink(b *testing.B) {
	base, _ := startApplication(b, sampleUpstream(b, 0), nil)
	hash := built(b, base, "luci")
	browser := startBrowser(b)
	slow := network.EmulateNetworkConditionsByRuleParams{MatchedNetworkConditions: []*network.Conditions{{
		Latency: 150, DownloadThroughput: 256_000 / 8, UploadThroughput: 256_000 / 8, ConnectionType: network.ConnectionTypeCellular2g,
	}}}
	pages := []struct{ name, path string }{{"start", "/"}, {"device", archerPage}, {"result", "/build/" + hash}}
	sums := map[string]float64{}
	for b.Loop() {
		tb := browser.tab(b, base, command(network.EmulateNetworkConditionsByRule, slow))
		for _, p := range pages {
			before := tb.weight()
			tb.open(p.path)
			tb.until(`performance.getEntriesByName("first-contentful-paint").length && document.readyState === "complete"`)
			sums[p.name+"-paint-ms"] += eval[float64](tb, `performance.getEntriesByName("first-contentful-paint")[0].startTime`)
			sums[p.name+"-interactive-ms"] += eval[float64](tb, `performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd`)
			sums[p.name+"-sent-B"] += tb.weight() - before
			sums[p.name+"-heap-B"] += eval[float64](tb, `performance.memory.usedJSHeapSize`)
		}
	}
	for name, sum := range sums {
		b.ReportMetric(sum/float64(b.N), strings.ReplaceAll(name, " ", "-"))
	}
}
