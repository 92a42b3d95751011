// RUN: qvit-opt %s --smooth-pot=report=%t.json 2> %t.txt | filecheck %s
// RUN: filecheck %s --input-file %t.json --check-prefix=JSON
// RUN: filecheck %s --input-file %t.txt --check-prefix=TABLE
// RUN: qvit-opt %s --smooth-pot=alpha=1.0 | filecheck %s --check-prefix=ALL
// RUN: not qvit-opt %s --smooth-pot=alpha=1.5 -o %t.mlir 2> %t.err
// RUN: filecheck %s --input-file %t.err --check-prefix=ERROR
// RUN: not qvit-opt %s --smooth-pot=statistics=%t.json -o %t.mlir 2> %t.file
// RUN: filecheck %s --input-file %t.file --check-prefix=FILE

// Powers of two go from the results of a normalisation into the weights behind it.

// ERROR: qvit-opt: error: {{.*}}smooth-pot: alpha must be in 0..1, found 1.5
// FILE:  qvit-opt: error: {{.*}}smooth-pot: {{.*}}.json cannot be read as an .npz file of vectors

// Without statistics channels reach |beta| + 3 |gamma|: 3 and 48; columns of the weights reach 1 and 1.
// sqrt(3) and sqrt(48), over their geometric mean, are 1/2 and 2.
func.func @smooth(%x: tensor<4x2xf32>) -> tensor<4x2xf32> {
  %g = qvit.constant dense<[1.0, 10.0]> : tensor<2xf32>
  %b = qvit.constant dense<[0.0, -18.0]> : tensor<2xf32>
  %y = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.000000e-06 {qvit.src = ["norm"]} : (tensor<4x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<4x2xf32>
  %c = qvit.constant dense<[[0.5, 1.0], [-1.0, 0.25]]> : tensor<2x2xf32>
  %z = qvit.linear %y, %c {qvit.src = ["fc"]} : (tensor<4x2xf32>, tensor<2x2xf32>) -> tensor<4x2xf32>
  func.return %z : tensor<4x2xf32>
}
// CHECK-LABEL: @smooth
// CHECK:         qvit.constant dense<[2.000000e+00, 5.000000e+00]>
// CHECK:         qvit.constant dense<[0.000000e+00, -9.000000e+00]>
// CHECK:         qvit.layer_norm
// CHECK:         dense<{{\[\[}}2.500000e-01, 2.000000e+00], [-5.000000e-01, 5.000000e-01]]>
// CHECK-NEXT:    qvit.linear
// ALL-LABEL:   @smooth
// ALL:           qvit.constant dense<[4.000000e+00, 2.500000e+00]>

// All layers behind a normalisation take part, behind a reshape too; what else takes it is in the way.
func.func @layers(%x: tensor<4x2xf32>) -> (tensor<4x1xf32>, tensor<2x2x1xf32>) {
  %g = qvit.constant dense<[1.0, 16.0]> : tensor<2xf32>
  %b = qvit.constant dense<[0.0, 0.0]> : tensor<2xf32>
  %y = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.000000e-06 {qvit.src = ["shared"]} : (tensor<4x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<4x2xf32>
  %c = qvit.constant dense<[[1.0, 1.0]]> : tensor<1x2xf32>
  %z = qvit.linear %y, %c : (tensor<4x2xf32>, tensor<1x2xf32>) -> tensor<4x1xf32>
  %v = qvit.reshape %y : tensor<4x2xf32> -> tensor<2x2x2xf32>
  %u = qvit.linear %v, %c : (tensor<2x2x2xf32>, tensor<1x2xf32>) -> tensor<2x2x1xf32>
  func.return %z, %u : tensor<4x1xf32>, tensor<2x2x1xf32>
}
// CHECK-LABEL: @layers
// CHECK:         qvit.constant dense<[2.000000e+00, 8.000000e+00]>
// CHECK:         dense<{{\[\[}}5.000000e-01, 2.000000e+00]]>
// CHECK-NEXT:    qvit.linear
// CHECK:         dense<{{\[\[}}5.000000e-01, 2.000000e+00]]>
// CHECK-NEXT:    qvit.linear

func.func @left(%x: tensor<2x2xf32>, %w: tensor<2x2xf32>) -> (tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>) {
  %g = qvit.constant dense<[1.0, 16.0]> : tensor<2xf32>
  %a = qvit.layer_norm %x, %g, %g axis 1 epsilon 1.000000e-06 {qvit.src = ["added"]} : (tensor<2x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %r = qvit.add %a, %x {qvit.src = ["sum"]} : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
  %b = qvit.layer_norm %x, %g, %g axis 1 epsilon 1.000000e-06 {qvit.src = ["open"]} : (tensor<2x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %s = qvit.linear %b, %w {qvit.src = ["runtime"]} : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
  %c = qvit.layer_norm %x, %g, %g axis 1 epsilon 1.000000e-06 {qvit.src = ["as_weights"]} : (tensor<2x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %t = qvit.linear %x, %c {qvit.src = ["other_way"]} : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
  func.return %r, %s, %t : tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>
}
// CHECK-LABEL: @left
// CHECK-NEXT:    %[[G:.*]] = qvit.constant dense<[1.000000e+00, 1.600000e+01]>
// CHECK-NEXT:    qvit.layer_norm %{{.*}}, %[[G]], %[[G]]
// CHECK-NEXT:    qvit.add
// CHECK-NEXT:    qvit.layer_norm %{{.*}}, %[[G]], %[[G]]
// CHECK-NEXT:    qvit.linear
// CHECK-NEXT:    qvit.layer_norm %{{.*}}, %[[G]], %[[G]]
// CHECK-NEXT:    qvit.linear

// JSON:      "src": "norm",
// JSON-NEXT: "low": 0.5,
// JSON-NEXT: "high": 2.0
// JSON:      "guessed": 2
// JSON:      "src": "added",
// JSON:      "reason": "sum takes it, a qvit.add: expected linear layers alone"
// JSON:      "src": "open",
// JSON:      "reason": "the weights of runtime are not constant floats: smooth before quantization"
// JSON:      "src": "as_weights",
// JSON:      "reason": "other_way takes it as something else than its input"

// TABLE:      smooth-pot
// TABLE-NEXT:   smoothed                                    2
// TABLE-NEXT:     2 without statistics: channels taken to reach |beta| + 3 |gamma|
// TABLE-NEXT:     norm: by 0.5 .. 2
