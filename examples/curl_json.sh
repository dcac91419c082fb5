#!/usr/bin/env bash
# A dense layer fitted to y = 3a − 2b + 1 with curl and JSON alone. Needs curl and jq; the service is where DDPNOPT_URL says, or at
# http://127.0.0.1:8787 (npm start). The small floor makes it Gauss-Newton's method, the right one for squared errors.
set -euo pipefail
url=${DDPNOPT_URL:-http://127.0.0.1:8787}
json='Content-Type: application/json'

session=$(curl -sf "$url/v1/sessions" -H "$json" -d '{
  "layers": [{"name": "line", "kind": "dense", "inputs": 2, "outputs": 1}],
  "optimizer": {"coupling": "value", "terminalCurvature": {"kind": "gradient", "lossScale": {"floor": 0.01}}}
}' | jq -r .id)

inputs='[[1, 0], [0, 1], [1, 1], [-1, 2]]'
targets='[4, -1, 2, -6]'
parameters='{"weight": [0, 0], "bias": 0}'
for step in 0 1 2 3 4 5; do
  # errors = inputs · weight + bias − targets; loss = error² / 2, whose gradient in the output is the error itself.
  body=$(jq -nc --argjson x "$inputs" --argjson y "$targets" --argjson p "$parameters" '
    [range($x | length) as $i | $x[$i][0] * $p.weight[0] + $x[$i][1] * $p.weight[1] + $p.bias - $y[$i]] as $errors |
    {losses: [$errors[] | . * . / 2], "layers.line.input": $x, "layers.line.output_grad": [$errors[] | [.]]}')
  reply=$(curl -sf -X PUT "$url/v1/sessions/$session/steps/$step" -H "$json" -H 'Accept: application/json' -d "$body")
  echo "step $step: loss $(jq .__metadata__.metrics.loss <<<"$reply")"
  parameters=$(jq -nc --argjson p "$parameters" --argjson r "$reply" '{
    weight: [$p.weight[0] + $r["layers.line.update.weight"][0][0], $p.weight[1] + $r["layers.line.update.weight"][1][0]],
    bias: ($p.bias + $r["layers.line.update.bias"][0])}')
done
echo "weight and bias: $parameters"
curl -sf -X DELETE "$url/v1/sessions/$session"
