// RUN: qvit-opt %s --lower-to-linalg=partial 2> %t.txt | filecheck %s
// RUN: filecheck %s --input-file %t.txt --check-prefix=LEFT
// RUN: not qvit-opt %s --lower-to-linalg -o %t.mlir 2> %t.err
// RUN: filecheck %s --input-file %t.err --check-prefix=ERROR
// RUN: not cat %t.mlir

// What has no lowering is an error, or stays, with its attributes, between casts.

// LEFT:       2 operations have no lowering:
// LEFT-NEXT:    real: qvit.requantize (its factor is a real number; dyadic factors and powers of two are lowered)
// LEFT-NEXT:    probabilities: qvit.softmax (there is no lowering of it)
// LEFT-NOT:   {{.}}

// ERROR:      qvit-opt: error: lower-to-linalg: 2 operations have no lowering:
// ERROR-NEXT:   real: qvit.requantize (its factor is a real number; dyadic factors and powers of two are lowered)
// ERROR-NEXT:   probabilities: qvit.softmax (there is no lowering of it)
// ERROR-NOT:  {{.}}

// CHECK:      builtin.module attributes {qvit.weights = []} {
builtin.module attributes {qvit.weights = []} {
  func.func @main(%x: tensor<2xui8> {qvit.name = "codes"}, %f: tensor<2xf32>) -> (tensor<2xui8>, tensor<2xf32>) {
    %y = qvit.requantize %x by #qvit.real<0.5> {qvit.src = ["real"]} : tensor<2xui8> -> tensor<2xui8>
    %z = qvit.requantize %y by #qvit.pot<1> rounding floor {qvit.src = ["pot"]} : tensor<2xui8> -> tensor<2xui8>
    %s = qvit.softmax %f axis 0 {qvit.src = ["probabilities"]} : tensor<2xf32>
    func.return %z, %s : tensor<2xui8>, tensor<2xf32>
  }
}
// CHECK-NEXT: func.func @main(%[[X:.*]]: tensor<2xi8>, %[[F:.*]]: tensor<2xf32>) -> (tensor<2xi8>, tensor<2xf32>) {
// CHECK-NEXT:   %[[C:.*]] = builtin.unrealized_conversion_cast %[[X]] : tensor<2xi8> to tensor<2xui8>
// CHECK-NEXT:   %[[Y:.*]] = qvit.requantize %[[C]] by #qvit.real<0.5> {qvit.src = ["real"]} : tensor<2xui8> -> tensor<2xui8>
// CHECK-NEXT:   %[[D:.*]] = builtin.unrealized_conversion_cast %[[Y]] : tensor<2xui8> to tensor<2xi8>
// CHECK-NEXT:   %[[E:.*]] = tensor.empty() : tensor<2xi8>
// CHECK-NEXT:   %[[Z:.*]] = linalg.generic {{.*}} ins(%[[D]] : tensor<2xi8>) outs(%[[E]] : tensor<2xi8>)
// CHECK:        %[[S:.*]] = qvit.softmax %[[F]] axis 0 {qvit.src = ["probabilities"]}
// CHECK-NEXT:   func.return %[[Z]], %[[S]] : tensor<2xi8>, tensor<2xf32>
