// RUN: qvit-opt %s --range-analysis=report-only,report=%t.json 2> %t.txt | filecheck %s --check-prefix=IR
// RUN: filecheck %s --input-file %t.txt
// RUN: filecheck %s --input-file %t.json --check-prefix=JSON
// RUN: not qvit-opt %s --range-analysis -o %t.mlir 2> %t.err
// RUN: filecheck %s --input-file %t.err --check-prefix=ERROR

// Everything that the tagged functions compute is measured; what may not fit is named with its interval. The module stays.

// ERROR:      qvit-opt: error: range-analysis: 2 numbers or conditions are not proven:
// ERROR-NEXT:   too_many: qvit.linear: its accumulator is in -2147712000..2130933000, which takes 33 bits, and i32 has to hold it: accumulate in i64 (accumulator=64), or use narrower codes
// ERROR-NEXT:   beyond: qvit.requantize: its product is in -18446744073709551616..18446744073709551614, which takes 65 bits, and i64 has to hold it: requantize narrower codes, or by a smaller multiplier
// ERROR-NOT:  {{.}}

// CHECK:      range-analysis
// CHECK-NEXT:   values                   10
// CHECK-NEXT:   widest accumulator       33 bits of i32: too_many
// CHECK-NEXT:   tightest of               4
// CHECK-NEXT:      -1 bits left of i32: too_many (qvit.linear), accumulator -2147712000..2130933000
// CHECK-NEXT:      -1 bits left of i64: beyond (qvit.requantize), product -18446744073709551616..18446744073709551614
// CHECK-NEXT:      13 bits left of i32: fc (qvit.linear), accumulator -131560..130540
// CHECK-NEXT:      44 bits left of i64: scaled (qvit.requantize), product -394680..391620
// CHECK-NEXT:   failures                  2
// CHECK-NEXT:     too_many: qvit.linear: its accumulator is in
// CHECK-NEXT:     beyond: qvit.requantize: its product is in {{.*}} smaller multiplier
// CHECK-NOT:  {{.}}

// JSON:      "src": "fc",
// JSON-NEXT: "op": "qvit.linear",
// JSON-NEXT: "type": "tensor<2x4xi32>",
// JSON-NEXT: "lo": -131560,
// JSON-NEXT: "hi": 130540,
// JSON-NEXT: "intervals": 4
// JSON:      "src": "fc",
// JSON-NEXT: "op": "qvit.linear",
// JSON-NEXT: "what": "accumulator",
// JSON-NEXT: "lo": -131560,
// JSON-NEXT: "hi": 130540,
// JSON-NEXT: "bits": 19,
// JSON-NEXT: "type": "i32",
// JSON-NEXT: "headroom": 13

// Four channels, the last one without weights: each has an interval of its own, and the requantize saturates two.
// IR-LABEL: @fits
func.func @fits(%q: tensor<2x4xui8>) -> tensor<2x4xi8> attributes {qvit.integer_only} {
  %w = qvit.constant dense<[[127, 127, 127, 127], [-128, -128, -128, -128], [1, -1, 1, -1], [0, 0, 0, 0]]> : tensor<4x4xi8> {qvit.src = ["w"]}
  %b = qvit.constant dense<[1000, -1000, 0, 7]> : tensor<4xi32> {qvit.src = ["b"]}
  %y = qvit.linear %q, %w, %b {qvit.src = ["fc"]} : (tensor<2x4xui8>, tensor<4x4xi8>, tensor<4xi32>) -> tensor<2x4xi32>
  %z = qvit.requantize %y by #qvit.dyadic<3, 5> {qvit.src = ["scaled"]} : tensor<2x4xi32> -> tensor<2x4xi8>
  func.return %z : tensor<2x4xi8>
}
// IR: qvit.linear
// IR: qvit.requantize

// 65800 products of 255 and -128 pass the end of i32; a multiplier of 2 passes the end of i64.
func.func @overflows(%q: tensor<1x65800xui8>, %w: tensor<1x65800xi8>, %x: tensor<1xi64>) -> (tensor<1x1xi32>, tensor<1xi8>) attributes {qvit.integer_only} {
  %y = qvit.linear %q, %w {qvit.src = ["too_many"]} : (tensor<1x65800xui8>, tensor<1x65800xi8>) -> tensor<1x1xi32>
  %z = qvit.requantize %x by #qvit.dyadic<2, 5> {qvit.src = ["beyond"]} : tensor<1xi64> -> tensor<1xi8>
  func.return %y, %z : tensor<1x1xi32>, tensor<1xi8>
}

// Another function is not tagged: what it computes is not measured.
func.func @main(%a: tensor<1xi32>) -> tensor<1xi32> {
  %y = qvit.add %a, %a {qvit.src = ["not_checked"]} : (tensor<1xi32>, tensor<1xi32>) -> tensor<1xi32>
  func.return %y : tensor<1xi32>
}
// IR-LABEL: @main
// IR: qvit.add
