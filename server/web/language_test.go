package web

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var placeholder = regexp.MustCompile(`\{[a-z]+\}`)

// All languages have the same keys, and say the same with them.
func TestLanguagesAgree(t *testing.T) {
	all := loadLanguages()
	english := all["en"]
	for _, code := range languageCodes {
		l := all[code]
		for key, text := range l.texts {
			want, ok := english.texts[key]
			if !ok {
				t.Errorf("%s.json: %q is in no other language", code, key)
				continue
			}
			got, wanted := placeholder.FindAllString(text, -1), placeholder.FindAllString(want, -1)
			slices.Sort(got)
			slices.Sort(wanted)
			if !slices.Equal(got, wanted) {
				t.Errorf("%s.json: %q has %v, English %v", code, key, got, wanted)
			}
			if strings.TrimSpace(text) == "" || strings.Count(text, "\n") != strings.Count(want, "\n") {
				t.Errorf("%s.json: %q is empty or has another number of lines", code, key)
			}
		}
		for key := range english.texts {
			if l.texts[key] == "" {
				t.Errorf("%s.json: %q is missing", code, key)
			}
		}
	}
}

// Nobody translates a text in two places, or one that is not shown.
func TestLanguageFilesHaveNoKeyTwice(t *testing.T) {
	for _, code := range languageCodes {
		raw, err := languageFiles.ReadFile("lang/" + code + ".json")
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		d := json.NewDecoder(strings.NewReader(string(raw)))
		for i := 0; d.More() || i == 0; i++ {
			token, err := d.Token()
			if err != nil {
				t.Fatal(err)
			}
			key, isText := token.(string)
			if isText && i%2 == 1 {
				if seen[key] {
					t.Errorf("%s.json: %q stands there twice", code, key)
				}
				seen[key] = true
			}
		}
	}
}

// Every key that templates and code name is there, and every text is used.
func TestKeysAreUsed(t *testing.T) {
	texts := loadLanguages()["en"].texts
	var source strings.Builder
	for _, pattern := range []string{"*.go", "templates/*.html"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(raw)
		}
	}
	for _, m := range regexp.MustCompile(`(?:\.T|\.text|\.Or) \(?"([a-z.-]+)"|(?:\.T|\.text|\.Or)\("([a-z.-]+)"`).FindAllStringSubmatch(source.String(), -1) {
		key := m[1] + m[2]
		if texts[key] == "" && !strings.HasSuffix(key, ".") {
			t.Errorf("there is no text for %q", key)
		}
	}
	for _, r := range risks {
		if texts[r.key] == "" {
			t.Errorf("there is no text for %q", r.key)
		}
	}
	made := []string{"problem.", "code.", "reason.", "file.", "flash.", "howto.", "warning."} // of what comes from outside
	for key := range maps.Keys(texts) {
		if !strings.Contains(source.String(), `"`+key+`"`) && !slices.ContainsFunc(made, func(p string) bool { return strings.HasPrefix(key, p) }) {
			t.Errorf("nothing shows %q", key)
		}
	}
}

func TestLanguageOfTheBrowser(t *testing.T) {
	for header, want := range map[string]string{
		"": "en", "de": "de", "de-AT,de;q=0.9,en;q=0.8": "de", "en;q=0.5,pt-BR;q=0.9": "pt", "ja,ko;q=0.9": "en",
		"fr;q=x,it;q=0.1": "it", "*": "en", "ES": "es", "de;q=0": "en", strings.Repeat("xx,", 100) + "de": "en",
	} {
		if got := accepted(header); got != want {
			t.Errorf("%.40q: %s, want %s", header, got, want)
		}
	}
	h := site(newFakeAPI(), nil)
	r := httptest.NewRequest("GET", "/?lang=it", nil)
	r.Header.Set("Accept-Language", "de")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	contains(t, "chosen", w.Body.String(), `<html lang="it">`, `href="/status?lang=it"`, `name="lang" value="it"`)
	r = httptest.NewRequest("GET", "/?lang=xx", nil)
	r.Header.Set("Accept-Language", "de")
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	contains(t, "of the browser", w.Body.String(), `<html lang="de">`, `data-guessed="de"`)
}

func TestNumbersAreReadable(t *testing.T) {
	all := loadLanguages()
	for _, tt := range []struct{ got, want string }{
		{all["en"].size(0), "0 kB"}, {all["en"].size(1), "1 kB"}, {all["en"].size(999_000), "999 kB"}, {all["en"].size(5_432_100), "5.4 MB"},
		{all["de"].size(5_432_100), "5,4 MB"}, {all["fr"].size(2_000_000_000), "2,0 Go"},
		{all["en"].duration(0), "1 s"}, {all["en"].duration(99 * time.Second), "99 s"}, {all["en"].duration(150 * time.Second), "3 min"},
		{all["en"].duration(3 * time.Hour), "3 h"}, {all["de"].duration(72 * time.Hour), "3 Tagen"},
		{all["en"].text("no.such.key"), "no.such.key"},
		{all["en"].text("of", "part", "{whole}", "whole", "x"), "{whole} of x"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}
