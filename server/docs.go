package server

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
)

//go:embed openapi.json
var openAPISource []byte

//go:embed docs.html
var docsSource string

// openAPI returns the API's description with the running version in it, and
// the server's address where it is known.
func openAPI(version, publicURL string) []byte {
	var doc map[string]any
	if err := json.Unmarshal(openAPISource, &doc); err != nil {
		panic(err) // embedded: a test reads it
	}
	doc["info"].(map[string]any)["version"] = version
	if publicURL != "" {
		doc["servers"] = []any{map[string]any{"url": publicURL}}
	}
	return jsonBody(doc)
}

// The parts of the OpenAPI document that the page shows.
type (
	apiDoc struct {
		Info struct {
			Title, Version, Description string
		}
		Tags []struct {
			Name, Description string
		}
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Schemas map[string]apiSchema
		}
	}
	apiOperation struct {
		Tags                 []string
		Summary, Description string
		Parameters           []apiParameter
		RequestBody          *struct {
			Content map[string]struct{ Schema apiSchema }
		}
		Responses map[string]apiResponse
	}
	apiParameter struct {
		Name, In, Description string
	}
	apiResponse struct {
		Description string
		Content     map[string]struct{ Schema apiSchema }
	}
	apiSchema struct {
		Ref         string `json:"$ref"`
		Type        any
		Description string
		Properties  map[string]apiSchema
		Required    []string
		Items       *apiSchema
		Enum        []any
		Const       any
		Examples    []any
	}
)

// Kind is the schema's type in a word or a few.
func (s apiSchema) Kind() string {
	switch {
	case s.Ref != "":
		return s.Name()
	case s.Const != nil:
		return strings.Trim(string(jsonBody(s.Const)), `"`)
	case s.Items != nil:
		return "list of " + s.Items.Kind()
	case s.Enum != nil:
		words := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			words[i] = strings.Trim(string(jsonBody(v)), `"`)
		}
		return strings.Join(words, " | ")
	}
	if list, ok := s.Type.([]any); ok {
		words := make([]string, len(list))
		for i, v := range list {
			words[i], _ = v.(string)
		}
		return strings.Join(words, " or ")
	}
	word, _ := s.Type.(string)
	return word
}

// Name is what a reference refers to.
func (s apiSchema) Name() string { return strings.TrimPrefix(s.Ref, "#/components/schemas/") }

// Requires tells whether an object must have the property.
func (s apiSchema) Requires(property string) bool { return slices.Contains(s.Required, property) }

type docsOperation struct {
	Method, Path string
	apiOperation
	Parameters []apiParameter
}

// docsPage renders the description as one page without assets, and the policy
// that lets a browser use nothing but the page's own style.
func docsPage(openAPI []byte) (page []byte, policy string) {
	var doc apiDoc
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		panic(err) // embedded: a test reads it
	}
	var operations []docsOperation
	for path, methods := range doc.Paths {
		var shared []apiParameter
		if raw, ok := methods["parameters"]; ok {
			if err := json.Unmarshal(raw, &shared); err != nil {
				panic(err)
			}
		}
		for method, raw := range methods {
			if method == "parameters" {
				continue
			}
			op := docsOperation{Method: strings.ToUpper(method), Path: path}
			if err := json.Unmarshal(raw, &op.apiOperation); err != nil {
				panic(err)
			}
			op.Parameters = append(slices.Clone(shared), op.apiOperation.Parameters...)
			operations = append(operations, op)
		}
	}
	slices.SortFunc(operations, func(a, b docsOperation) int {
		return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method)
	})
	t := template.Must(template.New("docs").Funcs(template.FuncMap{
		"ofTag": func(tag string) []docsOperation {
			return slices.DeleteFunc(slices.Clone(operations), func(op docsOperation) bool {
				return !slices.Contains(op.Tags, tag)
			})
		},
		"prose": prose,
	}).Parse(docsSource))
	var buf bytes.Buffer
	if err := t.Execute(&buf, doc); err != nil {
		panic(err)
	}
	page = buf.Bytes()
	_, style, _ := bytes.Cut(page, []byte("<style>"))
	style, _, _ = bytes.Cut(style, []byte("</style>"))
	sum := sha256.Sum256(style)
	return page, "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// prose turns the `code` of the descriptions into elements.
func prose(s string) template.HTML {
	parts := strings.Split(s, "`")
	var out strings.Builder
	for i, part := range parts {
		escaped := template.HTMLEscapeString(part)
		if i%2 == 1 && i < len(parts)-1 {
			escaped = "<code>" + escaped + "</code>"
		}
		out.WriteString(escaped)
	}
	return template.HTML(out.String()) //nolint:gosec // every part is escaped
}

func (s *Server) serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.openAPI)
}

func (s *Server) serveDocs(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Security-Policy", s.docsCSP)
	writeBody(w, http.StatusOK, "text/html; charset=utf-8", s.docs)
}
