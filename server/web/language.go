package web

import (
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed lang/*.json
var languageFiles embed.FS

// language is one language's texts: a key to a sentence, in which {name}
// stands for something that is put in.
type language struct {
	Code  string // "de"; also the HTML lang
	Name  string // in the language itself
	texts map[string]string
}

// languageCodes are the languages in the order in which the page offers them;
// the first is for those who speak none.
var languageCodes = []string{"en", "de", "es", "fr", "it", "pt"}

func loadLanguages() map[string]*language {
	all := map[string]*language{}
	for _, code := range languageCodes {
		raw, err := languageFiles.ReadFile("lang/" + code + ".json")
		if err != nil {
			panic(err)
		}
		l := &language{Code: code}
		if err := json.Unmarshal(raw, &l.texts); err != nil {
			panic(fmt.Errorf("lang/%s.json: %w", code, err))
		}
		l.Name = l.texts["language"]
		all[code] = l
	}
	return all
}

// languageList has the languages in the order in which they are offered.
func (s *Site) languageList() []*language {
	list := make([]*language, len(languageCodes))
	for i, code := range languageCodes {
		list[i] = s.languages[code]
	}
	return list
}

// language is the one that the page's address names, or else the browser's
// first that there is. chosen tells that it was in the address.
func (s *Site) language(r *http.Request) (l *language, chosen bool) {
	if l, ok := s.languages[r.FormValue("lang")]; ok {
		return l, true
	}
	return s.languages[accepted(r.Header.Get("Accept-Language"))], false
}

// accepted picks from an Accept-Language header (RFC 9110, 12.5.4).
func accepted(header string) string {
	best, bestQuality := languageCodes[0], 0.0
	for i, part := range strings.Split(header, ",") {
		if i == 32 {
			break
		}
		tag, parameters, _ := strings.Cut(strings.TrimSpace(part), ";")
		quality := 1.0
		if q, ok := strings.CutPrefix(strings.TrimSpace(parameters), "q="); ok {
			var err error
			if quality, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if quality > bestQuality && slices.Contains(languageCodes, primary) {
			best, bestQuality = primary, quality
		}
	}
	return best
}

// text returns the sentence of a key with pairs of name and value put in. The
// values may come from outside.
func (l *language) text(key string, pairs ...any) string {
	text, ok := l.texts[key]
	if !ok {
		return key
	}
	if len(pairs) == 0 {
		return text
	}
	replace := make([]string, len(pairs))
	for i, p := range pairs {
		if i%2 == 0 {
			replace[i] = "{" + fmt.Sprint(p) + "}"
		} else {
			replace[i] = isolated(fmt.Sprint(p))
		}
	}
	return strings.NewReplacer(replace...).Replace(text)
}

// has tells whether there is a sentence for a key that comes from outside.
func (l *language) has(key string) bool { return l.texts[key] != "" }

// number writes a number with one digit after the language's separator.
func (l *language) number(f float64) string {
	text := strconv.FormatFloat(f, 'f', 1, 64)
	if l.Code != "en" {
		text = strings.Replace(text, ".", ",", 1)
	}
	return text
}

// size writes a number of bytes as people read it: units of 1000, as disks and
// download pages have them.
func (l *language) size(n int64) string {
	for _, unit := range []struct {
		key  string
		size int64
	}{{"unit.gb", 1e9}, {"unit.mb", 1e6}} {
		if n >= unit.size || n <= -unit.size {
			return l.text(unit.key, "n", l.number(float64(n)/float64(unit.size)))
		}
	}
	return l.text("unit.kb", "n", (n+999)/1000)
}

// duration writes a time span roughly.
func (l *language) duration(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return l.text("unit.days", "n", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return l.text("unit.hours", "n", int(d.Hours()))
	case d >= 100*time.Second:
		return l.text("unit.minutes", "n", int(d.Minutes()+0.5))
	}
	return l.text("unit.seconds", "n", max(1, int(d.Seconds()+0.5)))
}
