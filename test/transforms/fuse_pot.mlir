// RUN: qvit-opt %s --fuse-pot=report=%t.json 2> %t.txt | filecheck %s
// RUN: filecheck %s --input-file %t.json --check-prefix=JSON
// RUN: filecheck %s --input-file %t.txt --check-prefix=TABLE
// RUN: qvit-opt %s --fuse-pot=rounding=ceil 2> %t.ceil | filecheck %s --check-prefix=CEIL
// RUN: qvit-opt %s --fuse-pot=rounding=adaptive 2> %t.adaptive | filecheck %s --check-prefix=ADAPTIVE
// RUN: not qvit-opt %s --fuse-pot=rounding=up -o %t.mlir 2> %t.err
// RUN: filecheck %s --input-file %t.err --check-prefix=ERROR

// Every scale becomes a power of two, and what is constant follows.

// ERROR: qvit-opt: error: fuse-pot: rounding must be floor, ceil, nearest, adaptive, found up

// The scales of input, weights and result; a bias at the product of the first two.
// 0.3 => 0.25: codes [10, -20, 30] stand for [3, -6, 9], which are [12, -24, 36] quarters. 0.1 => 0.125.
// The bias 8 * 0.03 = 0.24 is 7.68 units of 1/32 there.
func.func @layer(%x: tensor<2x3xf32>) -> tensor<2x1xf32> {
  %q = qvit.quantize %x <0.1, zero_point = 5> {qvit.src = ["x_q"]} : tensor<2x3xf32> -> tensor<2x3xui8>
  %v = qvit.dequantize %q <0.1, zero_point = 5> : tensor<2x3xui8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[[10, -20, 30]]> : tensor<1x3xi8>
  %w = qvit.dequantize %c <0.3> {qvit.src = ["w"]} : tensor<1x3xi8> -> tensor<1x3xf32>
  %d = qvit.constant dense<[8]> : tensor<1xi32>
  %b = qvit.dequantize %d <0.1 * 0.3> {qvit.src = ["b"]} : tensor<1xi32> -> tensor<1xf32>
  %y = qvit.linear %v, %w, %b : (tensor<2x3xf32>, tensor<1x3xf32>, tensor<1xf32>) -> tensor<2x1xf32>
  %r = qvit.quantize %y <0.9> {qvit.src = ["y_q"]} : tensor<2x1xf32> -> tensor<2x1xi8>
  %z = qvit.dequantize %r <0.9> : tensor<2x1xi8> -> tensor<2x1xf32>
  func.return %z : tensor<2x1xf32>
}
// CHECK-LABEL: @layer
// CHECK-NEXT:    qvit.quantize %{{.*}} <0.125, zero_point = 5>
// CHECK-NEXT:    qvit.dequantize %{{.*}} <0.125, zero_point = 5>
// CHECK:         qvit.constant dense<[[12, -24, 36]]> : tensor<1x3xi8>
// CHECK-NEXT:    qvit.dequantize %{{.*}} <0.25> {qvit.src = ["w"]}
// CHECK:         qvit.constant dense<8> : tensor<1xi32>
// CHECK-NEXT:    qvit.dequantize %{{.*}} <0.03125> {qvit.src = ["b"]}
// CHECK:         qvit.quantize %{{.*}} <1.0>
// CHECK-NEXT:    qvit.dequantize %{{.*}} <1.0>
// CEIL-LABEL:  @layer
// CEIL:          qvit.constant dense<[[6, -12, 18]]> : tensor<1x3xi8>
// CEIL-NEXT:     qvit.dequantize %{{.*}} <0.5>
// CEIL:          qvit.constant dense<4> : tensor<1xi32>
// CEIL-NEXT:     qvit.dequantize %{{.*}} <0.0625>
// Of 1/8, 1/4, 1/2 and 1 all but the last are exact: the nearest stays.
// ADAPTIVE-LABEL: @layer
// ADAPTIVE-NEXT:  qvit.quantize %{{.*}} <0.125, zero_point = 5>
// ADAPTIVE:       qvit.constant dense<[[12, -24, 36]]> : tensor<1x3xi8>
// ADAPTIVE-NEXT:  qvit.dequantize %{{.*}} <0.25>

// A scale for each output. 127 * 0.3 saturates at 127 * 0.25, and adaptive rounding does not let it.
func.func @channels(%x: tensor<2x2xf32>) -> tensor<2x2xf32> {
  %c = qvit.constant dense<[[127, 2], [4, 8]]> : tensor<2x2xi8>
  %w = qvit.dequantize %c <[0.3, 0.2], axis = 0> {qvit.src = ["wide"]} : tensor<2x2xi8> -> tensor<2x2xf32>
  %y = qvit.linear %x, %w : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL:    @channels
// CHECK:            qvit.constant dense<[[127, 2], [3, 6]]>
// CHECK-NEXT:       <[0.25, 0.25], axis = 0>
// ADAPTIVE-LABEL: @channels
// ADAPTIVE:         qvit.constant dense<[[76, 1], [13, 26]]>
// ADAPTIVE-NEXT:    <[0.5, 0.0625], axis = 0>

// The attention scale goes into the weights of the queries: all codes stay, and so do the products.
func.func @attention(%x: tensor<4x2xf32>, %k: tensor<2x4xf32>) -> tensor<4x4xf32> {
  %c = qvit.constant dense<[[1, 2], [3, 4]]> : tensor<2x2xi8>
  %w = qvit.dequantize %c <0.5> : tensor<2x2xi8> -> tensor<2x2xf32>
  %b = qvit.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %y = qvit.linear %x, %w, %b {qvit.src = ["queries"]} : (tensor<4x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<4x2xf32>
  %q = qvit.quantize %y <1.0> : tensor<4x2xf32> -> tensor<4x2xi8>
  %v = qvit.dequantize %q <1.0> : tensor<4x2xi8> -> tensor<4x2xf32>
  %p = qvit.matmul %v, %k : (tensor<4x2xf32>, tensor<2x4xf32>) -> tensor<4x4xf32>
  %s = qvit.constant dense<0.75> : tensor<f32>
  %z = qvit.mul %p, %s {qvit.src = ["scaled"]} : (tensor<4x4xf32>, tensor<f32>) -> tensor<4x4xf32>
  func.return %z : tensor<4x4xf32>
}
// 0.5 * 0.75 is half-way between two powers of two: the lower one. Weights of 3/8 are codes of 1.5 quarters.
// CHECK-LABEL: @attention
// CHECK:         qvit.constant dense<[[2, 3], [4, 6]]>
// CHECK-NEXT:    <0.25>
// CHECK-NEXT:    qvit.constant dense<[7.500000e-01, 1.500000e+00]>
// CHECK-NEXT:    qvit.linear
// CHECK-NEXT:    qvit.quantize %{{.*}} <0.5>
// CHECK-NEXT:    qvit.dequantize %{{.*}} <0.5>
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul {{.*}} {qvit.src = ["scaled"]}
// CHECK-NEXT:    return %[[P]]

// LayerScale behind a layer: a factor for each channel. One that is a power of two already stays where it is.
func.func @layer_scale(%x: tensor<4x2xf32>) -> tensor<4x2xf32> {
  %c = qvit.constant dense<[[1, 2], [3, 4]]> : tensor<2x2xi8>
  %w = qvit.dequantize %c <0.5> : tensor<2x2xi8> -> tensor<2x2xf32>
  %y = qvit.linear %x, %w : (tensor<4x2xf32>, tensor<2x2xf32>) -> tensor<4x2xf32>
  %s = qvit.constant dense<[3.0, 0.5]> : tensor<2xf32>
  %z = qvit.mul %y, %s : (tensor<4x2xf32>, tensor<2xf32>) -> tensor<4x2xf32>
  %t = qvit.constant dense<4.0> : tensor<f32>
  %u = qvit.div %z, %t : (tensor<4x2xf32>, tensor<f32>) -> tensor<4x2xf32>
  func.return %u : tensor<4x2xf32>
}
// CHECK-LABEL: @layer_scale
// CHECK:         qvit.constant dense<[[2, 3], [3, 4]]>
// CHECK-NEXT:    <[1.0, 0.25], axis = 0>
// CHECK-NEXT:    qvit.linear
// CHECK:         qvit.div

// Behind a normalisation gamma and beta take the factor.
func.func @normalised(%x: tensor<4x2xf32>) -> tensor<4x2xf32> {
  %g = qvit.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %b = qvit.constant dense<[0.0, 4.0]> : tensor<2xf32>
  %y = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.000000e-06 : (tensor<4x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<4x2xf32>
  %s = qvit.constant dense<[3.0, 0.75]> : tensor<2xf32>
  %z = qvit.mul %y, %s : (tensor<4x2xf32>, tensor<2xf32>) -> tensor<4x2xf32>
  func.return %z : tensor<4x2xf32>
}
// CHECK-LABEL: @normalised
// CHECK:         qvit.constant dense<[3.000000e+00, 1.500000e+00]>
// CHECK-NEXT:    qvit.constant dense<[0.000000e+00, 3.000000e+00]>
// CHECK-NEXT:    qvit.layer_norm
// CHECK-NEXT:    return

// What could not, and why.
func.func @left(%x: tensor<4x7x2xf32>, %q: tensor<4x2xi32>) -> (tensor<4x1x2xf32>, tensor<4x7x2xf32>, tensor<4x2xi8>, tensor<4x2xf32>) {
  %m = qvit.reduce_mean %x {axes = array<i64: 1>, keepdims = true, qvit.src = ["mean"]} : tensor<4x7x2xf32> -> tensor<4x1x2xf32>
  %s = qvit.constant dense<0.75> : tensor<f32>
  %y = qvit.mul %x, %s {qvit.src = ["argument"]} : (tensor<4x7x2xf32>, tensor<f32>) -> tensor<4x7x2xf32>
  %r = qvit.requantize %q by #qvit.real<0.3> {qvit.src = ["delayed"]} : tensor<4x2xi32> -> tensor<4x2xi8>
  %n = qvit.dequantize %r <-0.3> {qvit.src = ["negative"]} : tensor<4x2xi8> -> tensor<4x2xf32>
  func.return %m, %y, %r, %n : tensor<4x1x2xf32>, tensor<4x7x2xf32>, tensor<4x2xi8>, tensor<4x2xf32>
}
// CHECK-LABEL: @left
// CHECK-NEXT:    qvit.reduce_mean
// CHECK:         qvit.mul
// CHECK:         <-0.3>

// JSON:      "rounding": "nearest"
// JSON:      "exactness": "bounded"
// JSON:      "src": "x_q"
// JSON-NEXT: "kind": "activation"
// JSON-NEXT: "channels": 1
// JSON:      0.3219
// JSON:      "bound": 0.0625
// JSON:      "noise": 1.93
// JSON:      "left"
// JSON:      "reason": "it divides by 7, which is no power of two"

// TABLE:      fuse-pot (nearest; bounded: off by half of a new unit)
// TABLE:        factors folded into weights: 3, first scaled
// TABLE-NEXT:   left                                        4
// TABLE-NEXT:     2 x fold-factor, first mean: it divides by 7, which is no power of two
// TABLE-NEXT:     1 x qvit.requantize, first delayed: it has a factor already: fuse before delaying
// TABLE-NEXT:     1 x fuse-pot, first negative: its scale -0.3 is not positive
